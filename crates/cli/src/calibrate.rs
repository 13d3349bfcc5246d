//! `aptvit calibrate`

use anyhow::Result;
use apt_data::Progress;
use apt_rl_trainer::{Budget, EvaluationSettings, calibrate, held_out_images};
use indicatif::ProgressBar;
use serde_json::json;

use crate::args::{Calibrate, Global};
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
    let settings = EvaluationSettings {
        threshold: run.description.threshold,
        batch_size: run.config.train.eval_batch_size,
        normalization: run.description.normalization,
        workers: run.config.train.workers,
    };
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
    let mut rows = table(&["target", "threshold", "FLOPs share", "accuracy"]);
    for budget in &budgets {
        rows.add_row([
            percent(budget.target_flops),
            format!("{:.6}", budget.threshold),
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
