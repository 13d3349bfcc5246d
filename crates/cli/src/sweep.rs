//! `aptvit sweep`

use std::path::absolute;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use apt_data::Progress;
use apt_rl_trainer::sweep::{Cell, CellFolder, DENSE, MeasuredOn, Stage, Sweep, SweptPolicy};
use apt_rl_trainer::{Devices, RunFolder, StopRequest, TrainOptions, duration};
use serde_json::json;

use crate::args::{Global, Sweep as Args};
use crate::table::percent;
use crate::{End, device};

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
                None => RunFolder::open(start)?.description.data,
            };
            let sweep = Sweep {
                start: absolute(start)?,
                policies,
                budgets: args.budgets.clone(),
                seeds: args.seeds.clone(),
                passes: args.passes,
                overrides: args.overrides.clone(),
                measured_on: match args.held_out {
                    true => MeasuredOn::HeldOut,
                    false => MeasuredOn::Test,
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
    if !done {
        eprintln!("stopped; the same command goes on");
    }
    Ok(match done {
        true => End::Done,
        false => End::Interrupted,
    })
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

fn train(
    sweep: &Sweep,
    folder: &CellFolder,
    data: Option<std::path::PathBuf>,
    args: &Args,
) -> Result<bool> {
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
    ctrlc::set_handler(move || {
        if stop.is_requested() {
            std::process::exit(130);
        }
        stop.stop();
        eprintln!("stopping after this step, to go on later; once more to stop at once");
    })
    .context("cannot watch for Ctrl-C")?;
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
    use clap::Parser;

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
        let parts = split("tome,a:agents.layers=[0, 2];policy.merge=nearest,random");
        assert_eq!(
            parts,
            [
                "tome",
                "a:agents.layers=[0, 2];policy.merge=nearest",
                "random"
            ]
        );
    }
}
