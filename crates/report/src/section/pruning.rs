//! What `aptvit prune` found.

use maud::html;

use super::Section;
use super::interval::half_interval;
use crate::chart::{Chart, Series};
use crate::number::{Number, Style, or_dash};
use crate::subject::Subject;

/// What the divergence means, in a sentence.
pub(super) const KL: &str = "KL says how far the pruned model's class probabilities are from the dense model's: 0 if they are equal.";

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
    let held_out = pruning.number("/held_out", Style::Whole);
    let body = html! {
        @if let Some(why) = pruning.text("/why") {
            p { "Policy " b { (pruning.text("/policy").unwrap_or_default()) } ": " (why) "." }
        }
        p.note {
            (compared) ", on " @if let Some(images) = &held_out { (images) " " } "images held out from learning; FLOPs are counted, times are measured."
            @if !features { " " (KL) }
            @if let Some(half) = interval(rows, held_out.as_ref()) {
                " The 95% interval of equal answers on so few images is at most ±" (Number::computed(half, Style::Percent)) "."
            }
            @if pruning.text("/asked_policy") == Some("auto") {
                " The table has the dense model, ToMe as a peer, and the chosen policy. Other policies were compared by KL alone; the sentence above has them."
            }
        }
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

/// Half the widest 95% interval of the rows' shares of equal answers.
fn interval(rows: &[serde_json::Value], images: Option<&Number>) -> Option<f64> {
    let images = images.filter(|images| images.value > 0.0)?.value;
    let shares = rows.iter().filter_map(|row| row["equal_answers"].as_f64());
    shares
        .map(|share| half_interval(share, images))
        .max_by(f64::total_cmp)
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
