//! `aptvit calibrate`

use std::path::PathBuf;

use anyhow::{Result, bail};
use apt_data::Progress;
use apt_inference::{Budget, Model, OpenOptions};
use apt_pruning_agent::Selection;
use apt_rl_trainer::{EvaluationSettings, RunFolder, calibrate, held_out_images};
use clap::Parser;
use serde_json::json;

use crate::global::Global;
use crate::model_args::Which;
use crate::progress_bar::SearchBar;
use crate::selection::in_words;
use crate::table::{percent, table};
use crate::values::{at_least_one, share};
use crate::{End, device};

const EXAMPLES: &str = "\
Examples:
  aptvit calibrate --run runs/mine --flops 0.7,0.5
  aptvit eval --run runs/mine --flops 0.5
  aptvit infer --run runs/mine --flops 0.5 cat.jpg

Nothing is trained: least scores are fitted on the training images that the run held out, and kept in
its budgets.json. A policy that counts tokens (all without agents, and those with policy.adaptive = false) needs
none: its --flops works at once.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Calibrate {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Shares of the dense model's FLOPs, the policy's own included
    #[arg(long, required = true, value_name = "SHARE,..", value_delimiter = ',', value_parser = share)]
    pub flops: Vec<f64>,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint: Which,
    /// Data file or folder [default: the run's]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Use only the first so many held-out images
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit: Option<usize>,
}

pub fn run(args: &Calibrate, global: &Global) -> Result<End> {
    let device = device::open();
    let run = RunFolder::open(&args.run)?;
    let options = OpenOptions {
        checkpoint: args.checkpoint.into(),
        precision: global.dtype,
    };
    let model = Model::open_with(&args.run, options, &device)?;
    if model.pruning().counts_tokens() {
        bail!(
            "{}: its policy keeps a number of tokens that is counted, not fitted; any --flops works at once",
            args.run.display()
        );
    }
    let images = held_out_images(&run, args.data.as_deref(), Progress::Bar)?;
    let images = images.take(args.limit.unwrap_or(images.len()));
    let kind = if run.config.flops.is_empty() {
        run.config.policy.policy.without_budget()
    } else {
        Selection::All
    };
    let settings = EvaluationSettings::of(&run, kind);
    let mut budgets: Vec<Budget> = Vec::new();
    for &target in &args.flops {
        let bar = SearchBar::new(target);
        let found = calibrate(
            model.pruning(),
            &images,
            target,
            &settings,
            &device,
            |share| bar.found(share),
        );
        drop(bar);
        let budget = Budget {
            checkpoint: model.checkpoint().to_string(),
            ..found?
        };
        run.save_budget(budget.clone())?;
        budgets.push(budget);
    }
    if global.json {
        println!("{}", json!(budgets));
        return Ok(End::Done);
    }
    let mut rows = table(&["target", "how much goes", "FLOPs share", "accuracy"]);
    for budget in &budgets {
        rows.add_row([
            percent(budget.target_flops),
            in_words(&budget.selection),
            percent(budget.flops_share),
            budget.accuracy.map_or("-".into(), percent),
        ]);
    }
    println!("{rows}");
    println!(
        "on {} images held out from training, checkpoint of {}",
        images.len(),
        model.checkpoint()
    );
    println!(
        "use it: aptvit eval --run {} --flops {}",
        args.run.display(),
        args.flops[0]
    );
    Ok(End::Done)
}
