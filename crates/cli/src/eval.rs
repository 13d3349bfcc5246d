//! `aptvit eval`

use std::io::IsTerminal;

use anyhow::{Result, bail};
use apt_data::Progress;
use apt_pruning_agent::{Amount, PolicyKind};
use apt_rl_trainer::{Evaluation, EvaluationSettings, PruningVit, RunFolder, evaluate};
use apt_vit_model::ExecutionMode;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

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
    let name = checkpoint.folder_name();
    let amount = amount(&run, &model, args.threshold, args.target_flops, &name)?;
    let mut settings = EvaluationSettings::of(&run, amount);
    settings.batch_size = args.batch_size.unwrap_or(settings.batch_size);
    let bar = progress_bar(test.len() as u64, "images");
    let done = |images: usize| bar.set_position(images as u64);
    let evaluations = evaluate(&model, &test, &modes, &settings, &device, done)?;
    bar.finish_and_clear();

    if global.json {
        let mut result = json!({
            "run": args.run,
            "checkpoint": name,
            "batch_size": settings.batch_size,
            "evaluations": evaluations,
        });
        // "threshold", "scores" or "kept".
        if let (Some(fields), Value::Object(amount)) =
            (result.as_object_mut(), json!(settings.amount))
        {
            fields.extend(amount);
        }
        println!("{result}");
    } else {
        println!(
            "{}, checkpoint of {name}, {}",
            args.run.display(),
            in_words(&settings.amount)
        );
        print(&evaluations);
    }
    Ok(End::Done)
}

/// How much is removed: what was asked for, or the run's own.
pub fn amount(
    run: &RunFolder,
    model: &PruningVit,
    threshold: Option<f64>,
    target_flops: Option<f64>,
    checkpoint: &str,
) -> Result<Amount> {
    match threshold {
        Some(_) if model.policy().kind != PolicyKind::Agents => {
            bail!("--threshold: this run's policy has none; use --target-flops")
        }
        Some(threshold) => Ok(Amount::Threshold { threshold }),
        None => Ok(run.amount(model, target_flops, checkpoint)?),
    }
}

/// How much is removed, for people.
pub fn in_words(amount: &Amount) -> String {
    let list = |numbers: &[String]| numbers.join(" / ");
    match amount {
        Amount::Threshold { threshold } => format!("threshold {threshold:.4}"),
        Amount::Scores { scores } => {
            let scores: Vec<String> = scores.iter().map(|score| format!("{score:.3}")).collect();
            format!("least scores {}", list(&scores))
        }
        Amount::Kept { kept } | Amount::KeptOfBatch { kept } => {
            let kept: Vec<String> = kept.iter().map(usize::to_string).collect();
            format!("patches kept {}", list(&kept))
        }
    }
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
