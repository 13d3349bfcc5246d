//! Accuracy, FLOPs and time: dense, at each budget, and a peer.

use std::path::Path;

use apt_vit_model::printable;
use maud::{Markup, html};
use serde_json::Value;

use super::Section;
use super::interval::half_interval;
use super::pruning::KL;
use crate::chart::{Chart, Series};
use crate::document::Document;
use crate::folder::Folder;
use crate::number::{Number, Style, or_dash};
use crate::passes::{Measured, Passes, Way};
use crate::subject::Subject;

pub(super) fn budgets(subject: &Subject) -> Option<Section> {
    let folder = &subject.folder;
    let summary = summary(&folder.summary);
    let calibrated = calibrated(folder);
    let measured = subject.seen().map(|passes| measured(subject, passes));
    if summary.is_none() && calibrated.is_none() && measured.is_none() {
        return None;
    }
    let body = html! {
        @if let Some(table) = summary { (table) }
        @if let Some(passes) = measured { (passes) }
        @if let Some(table) = calibrated { (table) }
    };
    Some(Section::new("budgets", "Accuracy, FLOPs and time", body))
}

/// What the finished training measured.
fn summary(summary: &Document) -> Option<Markup> {
    let images = summary.number("/test_images", Style::Whole)?;
    let row = |way: &str| {
        [
            summary.number(&format!("/{way}_accuracy"), Style::Percent),
            if way == "pruned" {
                summary.number("/flops_share", Style::Percent)
            } else {
                Some(Number::computed(1.0, Style::Percent))
            },
            summary.number(&format!("/images_per_s/{way}"), Style::TimePerImage),
            summary.number(&format!("/images_per_s/{way}"), Style::Whole),
        ]
    };
    let layers = summary.items("/layers");
    let batch = summary.number("/eval_batch_size", Style::Whole);
    Some(html! {
        h3 { "At the end of the training" }
        p.note { "One checkpoint on all " (images) " test images. Times are of the model alone" @if let Some(batch) = batch { ", in batches of " (batch) } ", dense and pruned in turns." }
        div.scroll { table {
            thead { tr { th {} th { "accuracy" } th { "FLOPs share" } th { "time an image" } th { "images/s" } } }
            tbody { @for way in ["dense", "pruned"] { tr {
                th scope="row" { (way) }
                @for number in row(way) { td { (or_dash(number)) } }
            } } }
        } }
        @if !layers.is_empty() { (left(summary, layers)) }
    })
}

/// What each block left.
fn left(summary: &Document, layers: &[Value]) -> Markup {
    let knows = layers
        .iter()
        .any(|layer| layer["foreground_kept"].is_number());
    let at = |index: usize, key: &str, style| {
        or_dash(summary.number(&format!("/layers/{index}/{key}"), style))
    };
    html! {
        div.scroll { table {
            thead { tr {
                th { "after block" } th { "tokens" } th { "keep rate" }
                @if knows { th { "foreground patches kept" } th { "background patches kept" } }
            } }
            tbody { @for index in 0..layers.len() { tr {
                td { (at(index, "layer", Style::Whole)) }
                td { (at(index, "tokens", Style::Digits(1))) }
                td { (at(index, "keep_rate", Style::Percent)) }
                @if knows {
                    td { (at(index, "foreground_kept", Style::Percent)) }
                    td { (at(index, "background_kept", Style::Percent)) }
                }
            } } }
        } }
    }
}

/// What budgets were calibrated to, in a run's or in an exported model's file.
fn calibrated(folder: &Folder) -> Option<Markup> {
    let (document, start) = if folder.budgets.is_there() {
        (&folder.budgets, "")
    } else {
        (&folder.description, "/budgets")
    };
    let count = document.items(start).len();
    if count == 0 {
        return None;
    }
    let at =
        |index: usize, key: &str, style| document.number(&format!("{start}/{index}/{key}"), style);
    let accuracy = |index: usize| at(index, "accuracy", Style::Percent);
    // Without labels there is none.
    let knows = (0..count).any(|index| accuracy(index).is_some());
    Some(html! {
        h3 { "Calibrated budgets" }
        p.note { "Fitted on held-out images. The table gives the budget that was asked for, and what the model reached on these images." }
        div.scroll { table {
            thead { tr { th { "asked for" } th { "FLOPs share" } @if knows { th { "accuracy" } } th { "images" } th { "checkpoint" } } }
            tbody { @for index in 0..count { tr {
                td { (or_dash(at(index, "target_flops", Style::Percent))) }
                td { (or_dash(at(index, "flops_share", Style::Percent))) }
                @if knows { td { (or_dash(accuracy(index))) } }
                td { (or_dash(at(index, "images", Style::Whole))) }
                td { (document.text(&format!("{start}/{index}/checkpoint")).unwrap_or_default()) }
            } } }
        } }
    })
}

/// What the report itself measured: every way to run the model, on the same images.
fn measured(subject: &Subject, passes: &Passes) -> Markup {
    let policy = subject.folder.policy().unwrap_or("the policy");
    let name = |way: Way| match way {
        Way::Dense => "dense".to_string(),
        Way::Own => policy.to_string(),
        Way::Tome => "ToMe (peer)".to_string(),
    };
    let percent = |value: f64| Number::computed(value, Style::Percent);
    let has_peer = passes
        .measured
        .iter()
        .any(|measured| measured.way == Way::Tome);
    html! {
        h3 { "Measured for this report" }
        p.note {
            (passes.seen.len()) " images" @if passes.of > passes.seen.len() { " of " (passes.of) ", drawn at random" } ": " (passes.from)
            ". All rows are of the same images. Equal answers and KL(dense || pruned), in nats, compare a row with the dense model. " (KL) " \
             Times are of the model alone on the machine that made this page, in turns, for the median of its batches of " (passes.batch)
            ". Compare them with each other, not with times of other batches."
            @if let Some(batch) = subject.folder.summary.number("/eval_batch_size", Style::Whole) {
                " The headline's times are those of the training's end, in batches of " (batch) ": their ratio may differ."
            }
            @if has_peer { " The peer is ToMe on the same weights at the same budget. It needs no training, so a learned policy should beat it." }
            @if passes.labelled { " The 95% interval of an accuracy on so few images is about ±" (Number::computed(interval(passes), Style::Percent)) "." }
            @if let Some(images) = learned_from(subject, passes) {
                " The policy learned from " (images) " images at the same path. If there is no test or validation split, some of them may be among these."
            }
        }
        div.scroll { table {
            thead { tr {
                th {} th { "budget" } @if passes.labelled { th { "accuracy" } } th { "equal answers" } th { "KL" } th { "FLOPs share" } th { "time an image" }
            } }
            tbody { @for found in &passes.measured { tr {
                th scope="row" { (name(found.way)) }
                td { (or_dash(found.target.map(percent))) }
                @if passes.labelled { td { (or_dash(found.accuracy.map(percent))) } }
                td { (or_dash((found.way != Way::Dense).then(|| percent(found.equal_answers)))) }
                td { (or_dash((found.way != Way::Dense).then(|| Number::computed(found.kl, Style::Digits(4))))) }
                td { (percent(found.flops_share)) }
                td { (Number::computed(found.images_per_s, Style::TimePerImage)) }
            } } }
        } }
        @for sentence in &passes.left_out { p.note { (sentence) } }
        div.charts {
            @for chart in charts(passes, &name) { (chart.figure()) }
        }
    }
}

/// Half the 95% interval of an accuracy near the dense one.
fn interval(passes: &Passes) -> f64 {
    let accuracy = passes
        .measured
        .first()
        .and_then(|dense| dense.accuracy)
        .unwrap_or(0.5);
    half_interval(accuracy, passes.seen.len() as f64)
}

/// From how many images the policy was learned, if these are images of the same place.
fn learned_from(subject: &Subject, passes: &Passes) -> Option<Number> {
    let pruning = &subject.folder.pruning;
    let path = printable(Path::new(pruning.text("/data")?));
    let number = pruning.number("/learned_from", Style::Whole)?;
    (path == passes.from).then_some(number)
}

/// Quality against FLOPs and against time.
fn charts(passes: &Passes, name: &dyn Fn(Way) -> String) -> Vec<Chart> {
    let quality = |found: &Measured| 100.0 * found.accuracy.unwrap_or(found.equal_answers);
    let what = if passes.labelled {
        "Accuracy"
    } else {
        "Equal answers"
    };
    let of = |cost: &dyn Fn(&Measured) -> f64| -> Vec<Series> {
        let series = |way: Way| {
            let own = passes.measured.iter().filter(|found| found.way == way);
            let mut points: Vec<(f64, f64)> =
                own.map(|found| (cost(found), quality(found))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series::marked(name(way), points)
        };
        vec![series(Way::Own), series(Way::Tome), series(Way::Dense)]
    };
    let flops = of(&|found| 100.0 * found.flops_share);
    let time = of(&|found| 1e3 / found.images_per_s);
    let charts = [
        Chart::of_points(
            format!("{what} (%) against FLOPs"),
            "counted FLOPs, % of the dense model's",
            flops,
        ),
        Chart::of_points(
            format!("{what} (%) against time"),
            "milliseconds an image, timed",
            time,
        ),
    ];
    charts.into_iter().flatten().collect()
}
