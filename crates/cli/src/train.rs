//! `aptvit train`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apt_data::{DataSource, Progress, Splits};
use apt_report::quoted;
use apt_rl_trainer::{
    Devices, ExperimentConfig, Outcome, Pause, Plan, RunFolder, Sized, StopRequest, Summary,
    TrainOptions, available_memory, check, duration, known_classes, plan, resume, size_for, train,
    train_on_splits,
};
use clap::Parser;
use serde_json::json;

use crate::global::Global;
use crate::samples::try_some;
use crate::table::{count, percent, table};
use crate::values::duration as parse_duration;
use crate::{End, device, report, signals};

const QUICKSTART: &str = include_str!("../../../configs/quickstart.toml");
/// What somebody's own images start from.
const FINETUNE: &str = include_str!("../../../configs/finetune.toml");

const EXAMPLES: &str = "\
Examples:
  aptvit train
  aptvit train --data pets/ --set model.pretrained=deit_tiny.safetensors      your own pictures: it sizes itself
  aptvit train --config configs/cifar10-small.toml --data cifar10.tgz --out runs/mine
  aptvit train --config configs/quickstart.toml --set train.steps=3000 --set optimizer.learning_rate=5e-4
  aptvit train --config configs/cifar10-apt.toml --dry-run
  aptvit train --resume runs/mine --time-limit 30m
  aptvit train --device cuda,cuda:1 --dtype bf16
  aptvit train --device flex,remote:10.0.0.2:3000

Ctrl-C saves a checkpoint and stops when the step under way has ended, also in the dashboard; a
second Ctrl-C ends at once. SIGTERM does the same, and ends the program after 30 s in any case. An
evaluation of held-out images is finished first. Where nobody reads the lines any more, as with
`2>&1 | head`, a checkpoint is saved and the training stops.
Exit code: 0 done, 1 error, 2 wrong usage, 130 interrupted, 143 ended by SIGTERM
without a checkpoint of the last step.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Train {
    /// The experiment's TOML file [default: the quick start; with --data, configs/finetune.toml, sized by the images]
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    /// Override a config key, as in train.steps=1000; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "resume")]
    pub overrides: Vec<String>,
    /// Data file or folder [default: generated or downloaded; with --resume, the run's]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// The run's folder [default: runs/ and the config's name, numbered where there is one]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Everything random derives from it [default: the config's]
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    pub seed: Option<u64>,
    /// Go on with the run in this folder
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Show parameters, FLOPs, memory, steps and a time estimate, and stop
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
    /// Save a checkpoint and stop after so long, as in 90s, 30m or 2h; without a unit, seconds
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// Plain lines instead of the dashboard, also on a terminal
    #[arg(long)]
    pub plain: bool,
    /// Write no report.html into the run's folder at the end
    #[arg(long)]
    pub no_report: bool,
    /// With several CUDA devices: sum gradients by Burn's collective operations
    /// on all of them, instead of on the first
    #[arg(long)]
    pub collective: bool,
}

pub fn run(args: &Train, global: &Global) -> Result<End> {
    if args.dry_run {
        let (mut config, splits) = config(args, global)?;
        if config.model.is_at_hand() {
            config.model.complete()?;
        } else {
            // What a training would download first; the preset has its sizes.
            config.model.pretrained = None;
        }
        if let Some(path) = args.data.as_deref().filter(|path| !path.exists()) {
            bail!("--data {}: there is no such file or folder", path.display());
        }
        let splits = match splits {
            None if args.data.is_some() || known_classes(&config.data).is_none() => {
                Some(config.load_data(args.data.as_deref(), Progress::Bar)?)
            }
            found => found,
        };
        let classes = match (known_classes(&config.data), &splits) {
            (Some(classes), _) => classes,
            (None, Some(splits)) => splits.train.num_classes(),
            (None, None) => bail!("--data: name the folder of your images"),
        };
        if let Some(splits) = splits {
            check(&config, splits)?;
        }
        eprintln!("timing a step here");
        print_plan(&plan(&config, classes, &device::open())?, &config, global);
        return Ok(End::Done);
    }

    let stop = StopRequest::default();
    let devices = Devices {
        devices: device::open_all()?,
        distributed: args.collective,
    };
    if args.collective && !device::chosen().is_some_and(|chosen| chosen.has_collectives()) {
        bail!("--collective: only devices that are all cuda have Burn's collective operations");
    }
    let options = TrainOptions {
        data: args.data.clone(),
        devices,
        memory: device::is_cpu().then(available_memory).flatten(),
        time_limit: args.time_limit,
        stop: stop.clone(),
        dashboard: !args.plain && !global.json && std::io::stderr().is_terminal(),
        progress: Progress::Bar,
    };
    signals::watch(stop).context("cannot watch for Ctrl-C")?;

    let (folder, outcome) = match &args.resume {
        Some(_) if global.dtype.is_some() => {
            bail!("--dtype: a training goes on in the floats that it began in")
        }
        Some(folder) => (folder.clone(), resume(folder, &options)?),
        None => {
            let (config, splits) = config(args, global)?;
            let folder = match &args.out {
                Some(folder) => folder.clone(),
                None => free_folder(args.config.as_deref().or(args.data.as_deref()))?,
            };
            eprintln!("run folder: {}", folder.display());
            let outcome = match splits {
                Some(splits) => train_on_splits(splits, config, &folder, &options),
                None => train(config, &folder, &options),
            };
            if outcome.is_err() {
                // Where nothing came of it, its name is free again; a folder that holds something stays.
                let _ = std::fs::remove_dir(&folder);
            }
            (folder, outcome?)
        }
    };
    match outcome {
        Outcome::Finished(summary) => {
            print_summary(&summary, &folder, global)?;
            if !args.no_report {
                report::at_the_end_of_a_training(&folder);
            }
            Ok(End::Done)
        }
        Outcome::Paused {
            reason,
            checkpoint,
            step,
            steps,
        } => {
            let command = format!("aptvit train --resume {}", quoted(&folder));
            if global.json {
                println!(
                    "{}",
                    json!({ "paused_at_step": step, "steps": steps, "checkpoint": checkpoint, "resume": command })
                );
            }
            eprintln!(
                "stopped at step {step} of {steps}; checkpoint: {}",
                checkpoint.display()
            );
            eprintln!("go on with: {command}");
            Ok(match reason {
                Pause::Requested => End::Interrupted,
                Pause::TimeLimit => End::Done,
            })
        }
    }
}

/// The config, and the images where they had to be seen for it.
fn config(args: &Train, global: &Global) -> Result<(ExperimentConfig, Option<Splits>)> {
    let mut overrides = args.overrides.clone();
    overrides.extend(args.seed.map(|seed| format!("seed={seed}")));
    overrides.extend(
        global
            .dtype
            .map(|dtype| format!("train.dtype={}", dtype.name())),
    );
    match (&args.config, &args.data) {
        (Some(path), _) => Ok((ExperimentConfig::load(path, &overrides)?, None)),
        (None, Some(data)) if !says(&overrides, "data.source") => sized(data, &overrides),
        (None, _) => {
            let config = ExperimentConfig::parse(QUICKSTART, "quickstart", &overrides)?;
            Ok((config, None))
        }
    }
}

/// Does one of the overrides set this key?
fn says(overrides: &[String], key: &str) -> bool {
    let mut keys = overrides.iter().filter_map(|said| said.split_once('='));
    keys.any(|(said, _)| said.trim() == key)
}

/// A config for somebody's own images, sized by them, and the images.
fn sized(data: &Path, overrides: &[String]) -> Result<(ExperimentConfig, Option<Splits>)> {
    let source = DataSource::of(data)?;
    let splits = source.load(Some(data), Progress::Bar)?;
    let first = ExperimentConfig::parse(FINETUNE, "finetune", overrides)?;
    let mut all = vec![format!("data.source={}", source.name())];
    eprintln!("chosen for these images; --set KEY=VALUE chooses otherwise:");
    for Sized { key, value, why } in size_for(&splits, &first.model)? {
        if !says(overrides, key) {
            eprintln!("  {key} = {value}  # {why}");
            all.push(format!("{key}={value}"));
        }
    }
    all.extend(overrides.iter().cloned());
    let config = ExperimentConfig::parse(FINETUNE, "finetune", &all)?;
    Ok((config, Some(splits)))
}

/// `runs/<name>`, or the first of `runs/<name>-2`, ... that nobody has; the name is that of config or data.
fn free_folder(named_after: Option<&Path>) -> Result<PathBuf> {
    let name = named_after
        .and_then(Path::file_stem)
        .map_or("quickstart".into(), |stem| {
            stem.to_string_lossy().into_owned()
        });
    Ok(RunFolder::claim(Path::new("runs"), &name)?)
}

fn print_plan(plan: &Plan, config: &ExperimentConfig, global: &Global) {
    if global.json {
        println!("{}", json!(plan));
        return;
    }
    let mut rows = table(&["plan", ""]);
    rows.add_row(["model", &config.model.preset]);
    let policy = &config.policy;
    rows.add_row(["policy", policy.policy.name()]);
    if let Some(algorithm) = &policy.algorithm {
        rows.add_row(["learned by", algorithm.entry().name]);
    }
    rows.add_row([
        "parameters, policy included",
        &count(plan.parameters as f64),
    ]);
    if plan.trained_parameters < plan.parameters {
        let trained = count(plan.trained_parameters as f64);
        rows.add_row(["parameters that learn", &trained]);
    }
    rows.add_row(["FLOPs of an image, dense", &count(plan.dense_flops as f64)]);
    rows.add_row([
        "FLOPs of an image in training",
        &count(plan.step_flops as f64),
    ]);
    if plan.learning_flops > 0 {
        let learning = count(plan.learning_flops as f64);
        rows.add_row(["  of that, what the policy learns from", &learning]);
    }
    rows.add_row(["memory, about", &gibibytes(plan.memory)]);
    if let Some(available) = available_memory() {
        rows.add_row(["memory that is free here", &gibibytes(available)]);
    }
    rows.add_row(["steps", &plan.steps.to_string()]);
    rows.add_row(["image passes", &plan.image_passes.to_string()]);
    rows.add_row(["evaluations", &plan.epochs.to_string()]);
    rows.add_row([
        "time of a step here",
        &format!("{:.2} s", plan.seconds_per_step),
    ]);
    let seconds = Duration::from_secs_f64(plan.seconds);
    rows.add_row(["time of all steps here, about", &duration(seconds)]);
    println!("{rows}");
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The table at the end of a training.
fn print_summary(summary: &Summary, folder: &Path, global: &Global) -> Result<()> {
    if global.json {
        println!("{}", serde_json::to_string(summary)?);
        return Ok(());
    }
    let mut rows = table(&["test images", "dense", "pruned"]);
    rows.add_row([
        "accuracy".to_string(),
        percent(summary.dense_accuracy),
        percent(summary.pruned_accuracy),
    ]);
    let tokens = tokens_in_short(&summary.tokens_per_layer);
    rows.add_row([
        "tokens after each block of the policy".into(),
        "all".into(),
        tokens,
    ]);
    rows.add_row([
        "FLOPs (counted)".into(),
        "100%".into(),
        percent(summary.flops_share),
    ]);
    let time = |images_per_s: f64| format!("{:.3} ms", 1e3 / images_per_s);
    rows.add_row([
        format!("time per image (timed, batch {})", summary.eval_batch_size),
        time(summary.images_per_s.dense),
        time(summary.images_per_s.pruned),
    ]);
    println!("{rows}");
    let known = summary
        .layers
        .last()
        .and_then(|last| last.foreground_kept.zip(last.background_kept));
    if let Some((foreground, background)) = known {
        println!(
            "the policy kept {} of the foreground patches and {} of the background",
            percent(foreground),
            percent(background)
        );
    }
    println!(
        "{} test images, checkpoint of {}, {} in all{}; saved {} of the FLOPs",
        summary.test_images,
        summary.checkpoint,
        duration(Duration::from_secs_f64(summary.seconds)),
        summary.peak_memory.map_or(String::new(), |peak| format!(
            ", {} of memory at most",
            gibibytes(peak)
        )),
        percent(1.0 - summary.flops_share)
    );
    println!("try it: aptvit infer --run {} PICTURE", quoted(folder));
    try_some(folder, global)
}

/// How many tokens are left, block by block; of many blocks, the first and the last.
fn tokens_in_short(per_block: &[f64]) -> String {
    let shown: Vec<String> = per_block
        .iter()
        .map(|tokens| format!("{tokens:.1}"))
        .collect();
    match shown.as_slice() {
        [] => "all".into(),
        [first, .., last] if shown.len() > 4 => format!("{first} .. {last}"),
        all => all.join(" / "),
    }
}
