//! `aptvit prune`

use std::path::{PathBuf, absolute};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use apt_data::{DataSource, PatchCorruption, Progress};
use apt_inference::Export;
use apt_report::Pruning;
use apt_rl_trainer::prune::{AUTO, PruneOptions, PruneProgress, PruneReport, prune};
use apt_rl_trainer::{StopRequest, duration, locate_weights, policy_settings};
use clap::Parser;
use serde_json::json;

use crate::global::Global;
use crate::model_args::Which;
use crate::progress_bar::{progress_bar, style};
use crate::table::{percent, table};
use crate::values::{at_least_one, duration as parse_duration, share};
use crate::{End, device, report, signals};

const EXAMPLES: &str = "\
Examples:
  aptvit prune --model deit.safetensors --data photos/ --flops 0.5 --out half
  aptvit prune --model runs/mine --data pets.tgz --flops 0.7,0.5 --policy allocate --out pruned
  aptvit prune --model deit.safetensors --data photos/ --policy filter --corrupt noise:0.25 --flops 0.8 --out clean
  aptvit prune --model deit.safetensors --data photos/ --policy park --set policy.recall=2 --flops 0.5 --out parked
  aptvit infer --run half cat.jpg
  aptvit eval --run half --flops 0.5 --data imagenet/val

The model stays as it is; a policy learns for which images how much can be merged. No labels are needed: the pruned answers
are compared with the model's own. Some hundreds of images suffice, and they should be such as the model will see.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Prune {
    /// Published weights with a head (a file, a folder, or a name that `aptvit fetch` lists), an exported folder, or a run
    #[arg(long, visible_alias = "run", value_name = "PATH")]
    pub model: PathBuf,
    /// Images to learn from: a folder or an archive; labels are not looked at
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Shares of the dense model's FLOPs, the policy's own included
    #[arg(long, required = true, value_name = "SHARE,..", value_delimiter = ',', value_parser = share)]
    pub flops: Vec<f64>,
    /// The folder to write into
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The policy: `aptvit info --policies` lists them; `auto` takes the best on held-out images
    #[arg(long, value_name = "NAME", default_value = AUTO)]
    pub policy: String,
    /// Override a setting of the policy, as in policy.dearness=0.01; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Look at so many images, at most
    #[arg(long, value_name = "N", default_value = "1000", value_parser = at_least_one)]
    pub images: usize,
    /// Replace patches of every image by what does not belong there before anything learns, KIND:SHARE: noise, occluder or
    /// foreign (of another image). The policy `filter` learns from that which patches mislead the model
    #[arg(long, value_name = "KIND:SHARE")]
    pub corrupt: Option<PatchCorruption>,
    /// Take about so long, as in 90s, 30m or 2h: with fewer images
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// Everything random derives from it
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
    /// Write no report.html into the folder at the end
    #[arg(long)]
    pub no_report: bool,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint: Which,
}

pub fn run(args: &Prune, global: &Global) -> Result<End> {
    let device = device::open();
    let path = if args.model.exists() {
        args.model.clone()
    } else {
        locate_weights(&args.model, Progress::Bar).context("--model")?
    };
    let (mut model, opened) = Export::open(&path, args.checkpoint.into(), &device)?;
    let mut description = opened.description;
    if let Some(precision) = global.dtype {
        model = model.with_precision(precision)?;
        description.dtype = precision;
    }
    let images = DataSource::load_to_learn(&args.data, Progress::Bar).context("--data")?;
    let stop = StopRequest::default();
    signals::watch(stop.clone()).context("cannot watch for Ctrl-C")?;
    let one = args.policy != AUTO;
    let options = PruneOptions {
        policy: args.policy.clone(),
        settings: policy_settings(one.then_some(&args.policy), &args.set)?,
        targets: args.flops.clone(),
        images: args.images,
        corruption: args.corrupt,
        seed: args.seed,
        time_limit: args.time_limit,
        stop,
    };
    let bar = progress_bar(args.images.min(images.len()) as u64, "images explored");
    let phase = Mutex::new(String::new());
    // What is done next is a line of its own; how much of it is done, the bar.
    let begin = |what: String, unit: &str, all: usize| {
        let mut phase = phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase != what {
            bar.suspend(|| eprintln!("{what}"));
            bar.reset();
            bar.set_length(all as u64);
            bar.set_style(style(unit));
            *phase = what;
        }
    };
    let told = |progress: PruneProgress<'_>| match progress {
        PruneProgress::Exploring(done, all) => {
            let what = format!("trying schedules of merging on {all} images");
            begin(what, "images explored", all);
            bar.set_position(done as u64);
        }
        PruneProgress::Learning(share) => {
            begin("learning".into(), "% learned", 100);
            bar.set_position((100.0 * share) as u64);
        }
        PruneProgress::Fitting(policy, target) => {
            let what = format!("fitting {policy} to {} of the FLOPs", percent(target));
            begin(what, "budgets fitted", 1);
        }
        PruneProgress::Measuring(policy, done, all) => {
            begin(format!("measuring {policy}"), "images", all);
            bar.set_position(done as u64);
        }
    };
    let found = prune(
        &model,
        &description,
        &images,
        &args.out,
        &options,
        &device,
        &told,
    );
    bar.finish_and_clear();
    let Some(found) = found? else {
        eprintln!("stopped; nothing was written");
        return Ok(End::Interrupted);
    };
    if global.json {
        println!("{}", json!(found));
    } else {
        print(&found);
    }
    keep(args, &found);
    if !args.no_report {
        report::at_the_end(&args.out);
    }
    Ok(End::Done)
}

/// Keeps what was found beside the pruned model. The model is whole without it: what goes wrong is a warning.
fn keep(args: &Prune, found: &PruneReport) {
    let whole = |path: &PathBuf| absolute(path).unwrap_or_else(|_| path.clone());
    let pruning = Pruning {
        model: args.model.clone(),
        data: whole(&args.data),
        asked_policy: args.policy.clone(),
        asked_images: args.images,
        seed: args.seed,
        version: env!("CARGO_PKG_VERSION"),
        found,
    };
    if let Err(error) = pruning.write(&args.out) {
        tracing::warn!("what was found is not kept: {error}");
    }
}

fn print(report: &PruneReport) {
    let features = report.rows.iter().any(|row| row.cosine.is_some());
    let moved = if features { "cosine" } else { "KL" };
    let mut rows = table(&["policy", "FLOPs share", "equal answers", moved, "images/s"]);
    for row in &report.rows {
        rows.add_row([
            row.policy.clone(),
            percent(row.flops_share),
            row.equal_answers.map_or("-".into(), percent),
            row.kl
                .or(row.cosine)
                .map_or("-".into(), |moved| format!("{moved:.4}")),
            format!("{:.1}", row.images_per_s),
        ]);
    }
    println!("{rows}");
    let said = if features {
        "cosine of dense and pruned features"
    } else {
        "equal answers and KL(dense || pruned), in nats"
    };
    println!("{said}, on images held out from learning");
    if let Some(corruption) = &report.corrupted {
        println!(
            "their patches are replaced ({corruption}); dense answers are those to the images as they were"
        );
    }
    println!("policy {}: {}", report.policy, report.why);
    let folder = report.folder.display();
    let took = duration(Duration::from_secs_f64(report.seconds));
    println!(
        "the pruned model is in {folder}, after {took}; use it: aptvit infer --run {folder} cat.jpg"
    );
}
