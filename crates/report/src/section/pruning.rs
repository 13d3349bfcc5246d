//! What `aptvit prune` found.

use maud::html;

use super::Section;
use crate::chart::{Chart, Series};
use crate::number::{Style, or_dash};
use crate::subject::Subject;

pub(super) fn pruning(subject: &Subject) -> Option<Section> {
    let pruning = &subject.folder.pruning;
    let rows = pruning.items("/rows");
    if rows.is_empty() {
        return None;
    }
    let at = |index: usize, key: &str, style| {
        or_dash(pruning.number(&format!("/rows/{index}/{key}"), style))
    };
    // A model without classes answers with features.
    let features = rows.iter().any(|row| row["cosine"].is_number());
    let compared = if features {
        "Cosine of dense and pruned features"
    } else {
        "Equal answers and KL(dense || pruned), in nats"
    };
    let body = html! {
        @if let Some(why) = pruning.text("/why") {
            p { "Policy " b { (pruning.text("/policy").unwrap_or_default()) } ": " (why) "." }
        }
        p.note { (compared) ", on images held out from learning; FLOPs are counted, times are measured." }
        div.scroll { table {
            thead { tr { th { "policy" } th { "asked for" } th { "FLOPs share" }
                @if features { th { "cosine" } } @else { th { "equal answers" } th { "KL" } }
                th { "time an image" } th { "images/s" } } }
            tbody { @for (index, row) in rows.iter().enumerate() { tr {
                th scope="row" { (row["policy"].as_str().unwrap_or("?")) }
                td { (at(index, "target_flops", Style::Percent)) }
                td { (at(index, "flops_share", Style::Percent)) }
                @if features { td { (at(index, "cosine", Style::Digits(4))) } } @else {
                    td { (at(index, "equal_answers", Style::Percent)) }
                    td { (at(index, "kl", Style::Digits(4))) }
                }
                td { (at(index, "images_per_s", Style::TimePerImage)) }
                td { (at(index, "images_per_s", Style::Digits(1))) }
            } } }
        } }
        div.charts { @for chart in charts(rows) { (chart.figure()) } }
    };
    Some(Section::new("pruning", "What pruning found", body))
}

/// What was compared against FLOPs.
fn charts(rows: &[serde_json::Value]) -> Vec<Chart> {
    let mut names: Vec<&str> = Vec::new();
    for name in rows.iter().filter_map(|row| row["policy"].as_str()) {
        if name != "dense" && !names.contains(&name) {
            names.push(name);
        }
    }
    // The chosen policy comes last in the table and first in the chart.
    names.reverse();
    let of = |key: &str, factor: f64| -> Vec<Series> {
        let series = names.iter().map(|name| {
            let own = rows.iter().filter(|row| row["policy"] == *name);
            let points = own.filter_map(|row| {
                Some((
                    100.0 * row["flops_share"].as_f64()?,
                    factor * row[key].as_f64()?,
                ))
            });
            let mut points: Vec<(f64, f64)> = points.collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series::marked(*name, points)
        });
        series.collect()
    };
    let chart = |title: &str, series| {
        Chart::of_points(title, "counted FLOPs, % of the dense model's", series)
    };
    let charts = [
        chart(
            "Equal answers (%) against FLOPs",
            of("equal_answers", 100.0),
        ),
        chart("KL(dense || pruned) in nats against FLOPs", of("kl", 1.0)),
        chart("Cosine of features against FLOPs", of("cosine", 1.0)),
    ];
    charts.into_iter().flatten().collect()
}
