//! `aptvit eval`

use std::io::IsTerminal;

use anyhow::Result;
use apt_data::Progress;
use apt_rl_trainer::{Evaluation, EvaluationSettings, evaluate};
use apt_vit_model::ExecutionMode;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::args::{Eval, Global};
use crate::table::{count, percent, table};
use crate::{End, device, open_run};

pub fn run(args: &Eval, global: &Global) -> Result<End> {
    let device = device::open();
    let run = open_run(&args.run, global)?;
    let checkpoint = run.checkpoint(args.checkpoint.into())?;
    let model = run.load_model(&checkpoint, &device)?.prepack();
    let data = args.data.as_deref().or(run.description.data.as_deref());
    let test = run.config.data.load(data, Progress::Bar)?.test;
    let limit = args
        .limit
        .or(run.config.input.test_images)
        .unwrap_or(test.len());
    let test = test.take(limit);
    let modes = match args.mode {
        Some(mode) => vec![mode.into()],
        None => vec![ExecutionMode::Dense, ExecutionMode::Drop],
    };
    let threshold = match args.target_flops {
        Some(target) => run.threshold_of(target, &checkpoint.folder_name())?,
        None => args.threshold.unwrap_or(run.description.threshold),
    };
    let settings = EvaluationSettings {
        threshold,
        batch_size: args.batch_size.unwrap_or(run.config.train.eval_batch_size),
        normalization: run.description.normalization,
        workers: run.config.train.workers,
    };
    let bar = progress_bar(test.len() as u64, "images");
    let done = |images: usize| bar.set_position(images as u64);
    let evaluations = evaluate(&model, &test, &modes, &settings, &device, done)?;
    bar.finish_and_clear();

    if global.json {
        let result = json!({
            "run": args.run,
            "checkpoint": checkpoint.folder_name(),
            "threshold": settings.threshold,
            "batch_size": settings.batch_size,
            "evaluations": evaluations,
        });
        println!("{result}");
    } else {
        println!(
            "{}, checkpoint of {}, threshold {threshold:.4}",
            args.run.display(),
            checkpoint.folder_name()
        );
        print(&evaluations);
    }
    Ok(End::Done)
}

fn print(evaluations: &[Evaluation]) {
    let mut rows = table(&["mode", "accuracy", "FLOPs/image", "FLOPs share", "images/s"]);
    for evaluation in evaluations {
        rows.add_row([
            evaluation.mode.to_string(),
            percent(evaluation.accuracy),
            count(evaluation.flops_per_image),
            percent(evaluation.flops_share),
            format!("{:.1}", evaluation.images_per_s),
        ]);
    }
    println!("{rows}");
    for evaluation in evaluations
        .iter()
        .filter(|evaluation| !evaluation.layers.is_empty())
    {
        let mut rows = table(&[
            evaluation.mode,
            "tokens",
            "keep rate",
            "foreground",
            "background",
        ]);
        for layer in &evaluation.layers {
            rows.add_row([
                format!("after block {}", layer.layer),
                format!("{:.1}", layer.tokens),
                percent(layer.keep_rate),
                layer.foreground_kept.map_or("-".into(), percent),
                layer.background_kept.map_or("-".into(), percent),
            ]);
        }
        println!("{rows}");
    }
    let mut header = vec!["class", "images"];
    header.extend(evaluations.iter().map(|evaluation| evaluation.mode));
    let mut rows = table(&header);
    for (index, class) in evaluations[0].per_class.iter().enumerate() {
        let mut row = vec![class.class.clone(), class.images.to_string()];
        let accuracies = evaluations
            .iter()
            .map(|e| percent(e.per_class[index].accuracy));
        row.extend(accuracies);
        rows.add_row(row);
    }
    println!("{rows}");
}

/// A bar with an estimate on stderr; hidden where that is no terminal.
pub fn progress_bar(total: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) =
        ProgressStyle::with_template(&format!("{{bar:40}} {{pos}}/{{len}} {unit}, left {{eta}}"))
    {
        bar.set_style(style);
    }
    bar
}
