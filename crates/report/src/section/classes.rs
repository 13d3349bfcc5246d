//! Accuracy by class.

use maud::html;

use super::Section;
use crate::number::{Number, Style};
use crate::passes::Seen;
use crate::subject::Subject;

/// Classes that are shown, at most: those that lost most.
const MOST: usize = 30;

/// A class, and how many of its images each model classifies right.
struct Row {
    class: usize,
    images: usize,
    dense: usize,
    pruned: usize,
}

pub(super) fn classes(subject: &Subject) -> Option<Section> {
    let passes = subject.seen().filter(|passes| passes.labelled)?;
    let count = |class: usize, is: &dyn Fn(&Seen) -> bool| {
        passes
            .seen
            .iter()
            .filter(|seen| seen.label == Some(class) && is(seen))
            .count()
    };
    let rows = (0..passes.class_names.len()).map(|class| Row {
        class,
        images: count(class, &|_| true),
        dense: count(class, &|seen| seen.dense_is_right() == Some(true)),
        pruned: count(class, &|seen| seen.pruned_is_right() == Some(true)),
    });
    let mut rows: Vec<Row> = rows.filter(|row| row.images > 0).collect();
    let all = rows.len();
    let lost = |row: &Row| row.pruned as i64 - row.dense as i64;
    rows.sort_by_key(|row| (lost(row), row.class));
    rows.truncate(MOST);
    let share = |row: &Row, right: usize| {
        Number::computed(right as f64 / row.images as f64, Style::Percent)
    };
    let width =
        |row: &Row, right: usize| format!("width:{:.0}%", 100.0 * right as f64 / row.images as f64);
    let body = html! {
        p.note {
            "Sorted by the accuracy that pruning cost. With few images per class, one image is several percentage points."
            @if all > rows.len() { " " (rows.len()) " of " (all) " classes." }
        }
        div.scroll { table {
            thead { tr { th { "class" } th { "images" } th { "dense" } th { "pruned" } th.bars { "dense above, pruned below" } } }
            tbody { @for row in &rows { tr {
                td { (passes.class(row.class)) }
                td { (row.images) }
                td { (share(row, row.dense)) }
                td { (share(row, row.pruned)) }
                td.bars {
                    span.bar style=(width(row, row.dense)) {}
                    span.bar.pruned style=(width(row, row.pruned)) {}
                }
            } } }
        } }
    };
    Some(Section::new("classes", "Accuracy by class", body))
}
