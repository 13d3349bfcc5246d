//! How the training went, step by step.

use apt_rl_trainer::sweep::COLORS;
use maud::{Markup, html};
use serde_json::Value;

use super::Section;
use crate::chart::{Chart, Series};
use crate::metrics::Metrics;
use crate::number::{Style, or_dash};
use crate::subject::Subject;

/// Columns of the table of epochs: the metric, what it is called, how it is written.
const COLUMNS: [(&str, &str, Style); 4] = [
    ("loss", "loss", Style::Shortest),
    ("dense_accuracy", "dense", Style::Percent),
    ("pruned_accuracy", "pruned", Style::Percent),
    ("flops_share", "FLOPs share", Style::Percent),
];

/// Batches over which the FLOPs of training are averaged.
const FLOPS_OF_BATCHES: usize = 20;

pub(super) fn curves(subject: &Subject) -> Option<Section> {
    let metrics = &subject.folder.metrics;
    let charts = charts(metrics, &subject.folder.setting("train"));
    if charts.is_empty() {
        return None;
    }
    let body = html! {
        p.note { "Lines without marks show training batches, with neighbours averaged. Marks show held-out images after each epoch." }
        div.charts { @for chart in &charts { (chart.figure()) } }
        (epochs(metrics))
    };
    Some(Section::new("curves", "How the training went", body))
}

/// Those of which something was logged.
fn charts(metrics: &Metrics, settings: &Value) -> Vec<Chart> {
    let percent = |points: Vec<(f64, f64)>| -> Vec<(f64, f64)> {
        points
            .into_iter()
            .map(|(step, value)| (step, 100.0 * value))
            .collect()
    };
    let held_out = |name: &str| percent(metrics.of_epochs("valid", name));
    let batches = |name: &str| metrics.of_batches(name);
    let of_blocks = |name: &str, points: &dyn Fn(&str) -> Vec<(f64, f64)>| -> Vec<Series> {
        let blocks = metrics.blocks(name).into_iter();
        let series = blocks.map(|block| {
            Series::line(format!("block {block}"), points(&format!("{name}/{block}")))
        });
        few(series.collect())
    };
    let accuracy = vec![
        Series::marked("dense", held_out("dense_accuracy")),
        Series::marked("pruned", held_out("pruned_accuracy")),
    ];
    let loss = vec![
        Series::line("training", batches("loss")),
        Series::marked("held out", metrics.of_epochs("valid", "loss")),
    ];
    let flops = vec![
        Series::line(
            "training",
            percent(metrics.mean_of_batches("flops_share", FLOPS_OF_BATCHES)),
        ),
        Series::marked("held out", held_out("flops_share")),
    ];
    // Training alternates between dense and pruned passes; held-out images show what the policy leaves.
    let keep = of_blocks("keep_rate", &held_out);
    let keep = keep.into_iter().map(|series| Series {
        marked: true,
        ..series
    });
    let one = |name: &str, title: &str| vec![Series::line(title, batches(name))];
    let charts = [
        Chart::over_steps("Accuracy on held-out images (%)", accuracy),
        Chart::over_steps("Loss", loss),
        Chart::over_steps("FLOPs share (% of the dense model's)", flops)
            .map(|chart| chart.with_note(in_training(settings))),
        Chart::over_steps(
            "Keep rate after each block of the policy (%)",
            keep.collect(),
        )
        .map(|chart| chart.with_note("Kept patches by all patches of the image.")),
        Chart::over_steps(
            "Reward of the policy, by block",
            of_blocks("reward", &batches),
        )
        .map(|chart| {
            chart.with_note("Mean reward of a decision, as the policy's algorithm defines it.")
        }),
        Chart::over_steps(
            "Loss of the policy, by block",
            of_blocks("agent_loss", &batches),
        ),
        Chart::over_steps("Learning rate", one("learning_rate", "learning rate")),
        Chart::over_steps(
            "Throughput of training (images/s)",
            one("images_per_s", "training"),
        ),
    ];
    charts.into_iter().flatten().collect()
}

/// Why the FLOPs of training are not those of held-out images.
fn in_training(settings: &Value) -> String {
    let setting = |name: &str| settings[name].as_u64().filter(|&value| value > 0);
    let mut note = format!(
        "Training: the mean of the last {FLOPS_OF_BATCHES} batches. The policy's own FLOPs count."
    );
    if let Some(steps) = setting("dense_steps") {
        note += &format!(" The policy removes nothing in the first {steps} steps.");
    }
    if let Some(steps) = setting("agent_warmup_steps") {
        note += &format!(" Then it learns for {steps} steps before it acts.");
    }
    if let Some(every) = setting("dense_interval") {
        note += &format!(
            " One of every {every} forward passes of the training is dense, so that the training's line is above that of held-out images."
        );
    }
    note
}

/// As many series as there are colours; if there are more, evenly spaced ones.
fn few(series: Vec<Series>) -> Vec<Series> {
    const MOST: usize = COLORS.len();
    let count = series.len();
    if count <= MOST {
        return series;
    }
    let chosen: Vec<usize> = (0..MOST)
        .map(|place| place * (count - 1) / (MOST - 1))
        .collect();
    let all = series.into_iter().enumerate();
    all.filter(|(index, _)| chosen.contains(index))
        .map(|(_, series)| series)
        .collect()
}

/// The numbers of each epoch.
fn epochs(metrics: &Metrics) -> Markup {
    let epochs = metrics.epochs("valid");
    html! {
        @if !epochs.is_empty() {
            details {
                summary { "The numbers of each epoch, on held-out images" }
                div.scroll { table {
                    thead { tr {
                        th { "step" }
                        @for (_, title, _) in COLUMNS { th { (title) } }
                    } }
                    tbody { @for line in epochs { tr {
                        td { (or_dash(line.number("step", Style::Whole))) }
                        @for (name, _, style) in COLUMNS { td { (or_dash(line.number(name, style))) } }
                    } } }
                } }
            }
        }
    }
}
