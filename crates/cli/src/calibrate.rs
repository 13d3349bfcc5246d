//! `aptvit calibrate`

use anyhow::{Result, bail};
use apt_data::Progress;
use apt_pruning_agent::Amount;
use apt_rl_trainer::{Budget, EvaluationSettings, calibrate, held_out_images};
use indicatif::ProgressBar;
use serde_json::json;

use crate::args::{Calibrate, Global};
use crate::eval::in_words;
use crate::table::{percent, table};
use crate::{End, device, open_run};

pub fn run(args: &Calibrate, global: &Global) -> Result<End> {
    let device = device::open();
    let run = open_run(&args.run, global)?;
    let checkpoint = run.checkpoint(args.checkpoint.into())?;
    let model = run.load_model(&checkpoint, &device)?.prepack();
    let images = held_out_images(&run, args.data.as_deref(), Progress::Bar)?;
    let limit = args.limit.unwrap_or(images.len());
    let images = images.take(limit);
    if model.counts_tokens() {
        bail!(
            "{}: its policy keeps a number of tokens that is counted, not fitted; any --target-flops works at once",
            args.run.display()
        );
    }
    let kind = match run.config.budget.flops.is_empty() {
        true => Amount::Threshold {
            threshold: run.description.threshold,
        },
        false => Amount::Scores { scores: Vec::new() },
    };
    let settings = EvaluationSettings::of(&run, kind);
    let mut budgets: Vec<Budget> = Vec::new();
    for &target in &args.target_flops {
        let bar = ProgressBar::new_spinner();
        let found = calibrate(&model, &images, target, &settings, &device, |share| {
            bar.set_message(format!(
                "looking for {} of the FLOPs: {}",
                percent(target),
                percent(share)
            ));
            bar.tick();
        });
        bar.finish_and_clear();
        let budget = Budget {
            checkpoint: checkpoint.folder_name(),
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
            in_words(&budget.amount),
            percent(budget.flops_share),
            percent(budget.accuracy),
        ]);
    }
    println!("{rows}");
    println!(
        "on {} images held out from training, checkpoint of {}",
        images.len(),
        checkpoint.folder_name()
    );
    println!(
        "use it: aptvit eval --run {} --target-flops {}",
        args.run.display(),
        args.target_flops[0]
    );
    Ok(End::Done)
}
