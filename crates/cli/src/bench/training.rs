//! `aptvit bench train`: the published training step in parts, and whole steps of any policy.

use anyhow::Result;
use burn::module::Module;
use serde::Serialize;

use super::args::Bench;
use super::clock;
use super::output::{bench_bar, print_lines};
use super::parts::{Step, WHOLE};
use super::steps::{Scratch, trainings};
use super::subject::{Subject, Timed, USUAL_BATCH, rates};
use crate::device;
use crate::global::Global;
use crate::table::{percent, table};

/// A line of the result.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    timed: Timed,
    part: String,
    /// Whose step it is; absent where it is a part of the published one.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    /// The share of the dense FLOPs that it trains for.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_flops: Option<f64>,
    /// Counted: of the dense FLOPs, in the pass that the model learns from.
    #[serde(skip_serializing_if = "Option::is_none")]
    flops_share: Option<f64>,
    /// Of the time that a dense forward pass takes, the median of the ratios of each round.
    dense_passes: f64,
}

pub fn run(args: &Bench, global: &Global) -> Result<()> {
    let device = device::open().autodiff();
    let mut subject = Subject::new(args, global, &device)?;
    // A run's model comes ready for inference.
    subject.model = subject.model.train();
    let published = subject.published()?.train();
    device.seed(args.seed);
    let rates = rates(args, published.policy.blocks().len())?;
    let trainings = trainings(&subject);
    let (batches, effort) = (args.batches(USUAL_BATCH), args.effort());
    let parts = Step::number(args.whole);
    let bar = bench_bar(&effort, batches.len() * (parts + trainings.len()));
    let scratch = Scratch::new()?;
    let mut rows = Vec::new();
    for batch in batches {
        let images = subject.images(batch, &device);
        let step = Step::new(&published, &rates, args.ragged, images.clone(), &device);
        let mut cases = step.cases(args.whole);
        for training in &trainings {
            let trainee = subject.trainee(training.config(), &device)?;
            cases.push(training.case(trainee, &images, scratch.path())?);
        }
        let times = clock::time(&mut cases, &effort, &bar)?;
        let (of_parts, of_trainings) = times.split_at(parts);
        for (case, own) in cases.iter().zip(of_parts) {
            rows.push(Row {
                timed: subject.timed(batch, own),
                part: case.name.clone(),
                policy: None,
                target_flops: None,
                flops_share: None,
                dense_passes: times[0].speedup_over(own),
            });
        }
        for (training, own) in trainings.iter().zip(of_trainings) {
            rows.push(Row {
                timed: subject.timed(batch, own),
                part: WHOLE.to_string(),
                policy: subject.policy.clone(),
                target_flops: training.target_flops,
                flops_share: training.flops_share(),
                dense_passes: times[0].speedup_over(own),
            });
        }
    }
    bar.finish_and_clear();
    if global.json {
        print_lines(&rows);
    } else {
        let left = rates.iter().map(|&rate| f64::from(rate)).product();
        print_table(&rows, left);
    }
    Ok(())
}

fn print_table(rows: &[Row], left: f64) {
    let mut lines = table(&[
        "part",
        "batch",
        "images/s",
        "ms/image",
        "dense passes",
        "peak MiB",
    ]);
    for row in rows {
        let policy = match (&row.policy, row.target_flops) {
            (Some(policy), Some(share)) => format!(", {policy} at {share}"),
            (Some(policy), None) => format!(", {policy}"),
            _ => String::new(),
        };
        lines.add_row([
            format!("{}{policy}", row.part),
            row.timed.batch.to_string(),
            format!("{:.2}", row.timed.images_per_s),
            format!("{:.2}", row.timed.ms_per_image.median),
            format!("{:.2}", row.dense_passes),
            row.timed.peak(),
        ]);
    }
    if let Some(row) = rows.first() {
        println!(
            "{}, {} of the patches left in the pruned pass",
            row.timed.title(),
            percent(left)
        );
    }
    println!("{lines}");
}
