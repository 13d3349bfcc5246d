//! `aptvit sweep`

use std::path::{PathBuf, absolute};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use apt_data::Progress;
use apt_pruning_agent::policies;
use apt_rl_trainer::sweep::{Cell, CellFolder, DENSE, MeasuredOn, Stage, Sweep, SweptPolicy};
use apt_rl_trainer::{Devices, RunFolder, StopRequest, TrainOptions, duration};
use clap::Parser;
use serde_json::json;

use crate::global::Global;
use crate::table::percent;
use crate::values::{at_least_one, duration as parse_duration, share};
use crate::{End, device, report, signals};

const EXAMPLES: &str = "\
Examples:
  aptvit sweep --start runs/cifar10-small --out sweep --passes 64000
  aptvit sweep --start runs/mine --policies dense,tome,attentive --flops 0.5 --seeds 1,2,3
  aptvit sweep --start runs/mine --policies 'attentive,attentive-ppo:policy.algorithm=ppo'
  aptvit sweep --out sweep --report-only --reference tome

Each policy is trained with each seed from the start's best dense checkpoint, and measured on the test
images at each budget. What is done is kept: run the same command again to go on; another start or other
settings need another --out. In --out there are rows.csv and rows.json, summary.md with paired comparisons,
plots (SVG, PNG), report.html, cells/, runs/ and sweep.json.
Policies: those of `aptvit info --policies`; with :KEY=VALUE;.. behind a name, its config says that, too, and the name may be
longer: tome-slow:optimizer.learning_rate=1e-5 is tome with another learning rate. Where the start's policy says
in which blocks it acts (policy.layers), the others act there, too.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The run that all start from; its config is theirs, except for what the policy says
    #[arg(long, value_name = "DIR", required_unless_present = "report_only")]
    pub start: Option<PathBuf>,
    /// The sweep's folder
    #[arg(long, value_name = "DIR", default_value = "sweep")]
    pub out: PathBuf,
    /// Who is compared
    #[arg(long, value_name = "NAME,..", default_value_t = all_policies())]
    pub policies: String,
    /// Shares of the dense model's FLOPs
    #[arg(long, value_name = "SHARE,..", value_delimiter = ',', default_value = "0.7,0.5,0.35", value_parser = share)]
    pub flops: Vec<f64>,
    /// The seeds of the trainings
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "1,2,3"
    )]
    pub seeds: Vec<u64>,
    /// Images that each training learns from
    #[arg(long, value_name = "N", default_value = "64000", value_parser = at_least_one)]
    pub passes: usize,
    /// Override a config key in all of them, as in optimizer.learning_rate=2e-4; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Data file or folder [default: the start's]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Measure on images that the start held out from training instead of the test images: to choose by. The start
    /// must have held out more than the 2,000 that budgets are met by (input.val_images)
    #[arg(long)]
    pub held_out: bool,
    /// Whom the others are compared with in summary.md [default: the first of the policies but dense]
    #[arg(long, value_name = "NAME")]
    pub reference: Option<String>,
    /// Stop after so long, to go on later, as in 90s, 30m or 2h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// Write no report.html into the sweep's folder at the end
    #[arg(long)]
    pub no_report: bool,
    /// Only write the tables and plots of what is done
    #[arg(long)]
    pub report_only: bool,
}

fn all_policies() -> String {
    let known = policies().into_iter();
    let known = known.filter(|entry| !entry.for_frozen);
    let names: Vec<&str> = known.map(|entry| entry.name).collect();
    names.join(",")
}

pub fn run(args: &Args, global: &Global) -> Result<End> {
    let folder = CellFolder::new(&args.out);
    let done = match (&args.start, args.report_only) {
        (Some(start), false) => {
            let names = split(&args.policies);
            let policies = names.iter().map(|text| SweptPolicy::parse(text));
            let policies = policies.collect::<Result<Vec<SweptPolicy>, _>>()?;
            check_reference(args, &policies, &folder)?;
            let data = match &args.data {
                Some(data) => Some(data.clone()),
                None => RunFolder::open(start)?.description().data.clone(),
            };
            let sweep = Sweep {
                start: absolute(start)?,
                policies,
                flops: args.flops.clone(),
                seeds: args.seeds.clone(),
                passes: args.passes,
                overrides: overrides(args, global),
                measured_on: if args.held_out {
                    MeasuredOn::HeldOut
                } else {
                    MeasuredOn::Test
                },
            };
            train(&sweep, &folder, data, args)?
        }
        _ => true,
    };
    let cells = folder.all()?;
    if cells.is_empty() && !args.report_only {
        return Ok(End::Interrupted);
    }
    let reference = reference(args, &cells, done);
    let files = folder.report(&reference)?;
    if global.json {
        println!(
            "{}",
            json!({ "done": done, "cells": cells.len(), "files": files })
        );
    } else {
        print!("{}", apt_rl_trainer::sweep::summary(&cells, &reference));
        for file in &files {
            eprintln!("wrote {}", file.display());
        }
    }
    if !args.no_report {
        report::at_the_end(&args.out);
    }
    if !done {
        eprintln!("stopped; the same command goes on");
    }
    Ok(if done { End::Done } else { End::Interrupted })
}

/// What all trainings' configs say beside the start's.
fn overrides(args: &Args, global: &Global) -> Vec<String> {
    let mut overrides = args.overrides.clone();
    if let Some(dtype) = global.dtype {
        overrides.push(format!("train.dtype={}", dtype.name()));
    }
    overrides
}

/// Refuses a reference that the sweep will not have, before anything is trained.
fn check_reference(args: &Args, policies: &[SweptPolicy], folder: &CellFolder) -> Result<()> {
    let Some(reference) = &args.reference else {
        return Ok(());
    };
    let swept = policies.iter().any(|policy| policy.name == *reference);
    if !swept && !folder.all()?.iter().any(|cell| cell.policy == *reference) {
        bail!("--reference {reference}: expected one of the policies that are swept");
    }
    Ok(())
}

/// Whom the others are compared with: who was asked for, or the first policy but the dense model. An unfinished
/// sweep may have no cell of these yet; then it is one that is there.
fn reference(args: &Args, cells: &[Cell], done: bool) -> String {
    let there = |name: &str| cells.iter().any(|cell| cell.policy == name);
    if let Some(reference) = args.reference.as_deref().filter(|name| done || there(name)) {
        return reference.to_string();
    }
    let names = split(&args.policies);
    let names = names.iter().filter_map(|text| text.split(':').next());
    let others = cells.iter().map(|cell| cell.policy.as_str());
    let mut names = names
        .chain(others)
        .filter(|&name| name != DENSE && there(name));
    names.next().unwrap_or(DENSE).to_string()
}

/// The parts between commas, those within brackets excepted.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for character in text.chars() {
        match character {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => (),
        }
        match (character, depth, parts.last_mut()) {
            (',', 0, _) => parts.push(String::new()),
            (character, _, Some(part)) => part.push(character),
            _ => (),
        }
    }
    parts
}

fn train(sweep: &Sweep, folder: &CellFolder, data: Option<PathBuf>, args: &Args) -> Result<bool> {
    if let Some(path) = data.as_deref().filter(|path| !path.exists()) {
        bail!(
            "{}: there is no such data file or folder; say where it is with --data",
            path.display()
        );
    }
    let stop = StopRequest::default();
    let options = TrainOptions {
        data,
        devices: Devices {
            devices: device::open_all()?,
            distributed: false,
        },
        memory: None,
        time_limit: None,
        stop: stop.clone(),
        dashboard: false,
        progress: Progress::Hidden,
    };
    if let Some(limit) = args.time_limit {
        let stop = stop.clone();
        std::thread::spawn(move || {
            std::thread::sleep(limit);
            stop.stop();
        });
    }
    signals::watch(stop).context("cannot watch for Ctrl-C")?;
    let started = Instant::now();
    let mut trained = 0;
    let report = |stage: Stage<'_>| match stage {
        Stage::Training(policy, seed, number, all) => {
            let left = match trained {
                0 => String::new(),
                trained => format!(
                    ", about {} left",
                    duration(started.elapsed() * (all - number + 1) as u32 / trained)
                ),
            };
            trained += 1;
            eprintln!("training {policy} with seed {seed}: {number} of {all}{left}");
        }
        Stage::Trained(_) => (),
        Stage::Measured(cell) => eprintln!(
            "{} at {} with seed {}: accuracy {}, FLOPs share {}, {:.2} times as fast",
            cell.policy,
            cell.target_flops,
            cell.seed,
            percent(cell.accuracy),
            percent(cell.flops_share),
            cell.speed_up()
        ),
    };
    Ok(sweep.run(folder, &options, report)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_that_will_not_be_there_is_refused_before_training() {
        let folder = tempfile::tempdir().unwrap();
        let folder = CellFolder::new(folder.path());
        let args = |reference: &str| {
            Args::parse_from([
                "sweep",
                "--start",
                "x",
                "--policies",
                "tome",
                "--reference",
                reference,
            ])
        };
        let policies = [SweptPolicy::parse("tome").unwrap()];
        check_reference(&args("tome"), &policies, &folder).unwrap();
        let error = check_reference(&args("evit"), &policies, &folder).unwrap_err();
        assert!(error.to_string().contains("--reference evit"), "{error}");
        // Stopped before it was reached, there is nothing to compare with but the dense model.
        assert_eq!(reference(&args("tome"), &[], false), DENSE);
        assert_eq!(reference(&args("tome"), &[], true), "tome");
    }

    #[test]
    fn commas_within_brackets_do_not_part_policies() {
        let parts = split("tome,a:policy.layers=[0, 2];policy.merge=true,random");
        assert_eq!(
            parts,
            ["tome", "a:policy.layers=[0, 2];policy.merge=true", "random"]
        );
    }
}
