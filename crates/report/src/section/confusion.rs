//! Which classes the pruned model confuses.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::Section;
use crate::passes::Passes;
use crate::subject::Subject;

/// Classes of a matrix, at most. With more, pairs are listed.
const MOST: usize = 20;
/// Pairs that are listed.
const PAIRS: usize = 15;

pub(super) fn confusion(subject: &Subject) -> Option<Section> {
    let passes = subject.seen().filter(|passes| passes.labelled)?;
    let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for seen in &passes.seen {
        if let Some(label) = seen.label {
            *counts.entry((label, seen.pruned.class)).or_default() += 1;
        }
    }
    let classes: BTreeSet<usize> = counts
        .keys()
        .flat_map(|&(label, class)| [label, class])
        .collect();
    let body = if classes.len() <= MOST {
        matrix(passes, &counts, &classes)
    } else {
        pairs(passes, &counts)
    };
    Some(Section::new(
        "confusion",
        "Confusions of the pruned model",
        body,
    ))
}

fn matrix(
    passes: &Passes,
    counts: &BTreeMap<(usize, usize), usize>,
    classes: &BTreeSet<usize>,
) -> Markup {
    let of = |label: usize, class: usize| counts.get(&(label, class)).copied().unwrap_or(0);
    let sum = |label: usize| {
        classes
            .iter()
            .map(|&class| of(label, class))
            .sum::<usize>()
            .max(1)
    };
    let heat = |label: usize, class: usize| {
        let share = of(label, class) as f64 / sum(label) as f64;
        format!("background:rgb(var(--heat) / {:.2})", 0.75 * share.sqrt())
    };
    html! {
        p.note { "Numbers of images. Rows are true classes, columns are answers. A darker cell is a larger share of its row." }
        div.scroll { table.matrix {
            thead { tr {
                th {}
                @for &class in classes { th scope="col" { span { (passes.class(class)) } } }
            } }
            tbody { @for &label in classes { tr {
                th scope="row" { (passes.class(label)) }
                @for &class in classes {
                    td.diagonal[label == class] style=(heat(label, class)) {
                        @if of(label, class) > 0 { (of(label, class)) }
                    }
                }
            } } }
        } }
    }
}

fn pairs(passes: &Passes, counts: &BTreeMap<(usize, usize), usize>) -> Markup {
    let wrong = counts.iter().filter(|((label, class), _)| label != class);
    let mut wrong: Vec<_> = wrong.collect();
    wrong.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let all = wrong.len();
    html! {
        p.note { "The most frequent of " (all) " confusions." }
        div.scroll { table.wrap {
            thead { tr { th { "images" } th { "true class" } th { "answer" } } }
            tbody { @for ((label, class), count) in wrong.into_iter().take(PAIRS) { tr {
                td { (count) } td { (passes.class(*label)) } td { (passes.class(*class)) }
            } } }
        } }
    }
}
