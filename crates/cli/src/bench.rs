//! `aptvit bench`

mod clock;
mod data;
mod inference;
mod parts;
mod policies;
mod steps;
mod subject;
mod training;

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use serde::Serialize;

use self::clock::Effort;
use crate::End;
use crate::args::{Bench, Benched, Global};
use crate::eval::progress_bar;

pub fn run(args: &Bench, global: &Global) -> Result<End> {
    check(args)?;
    match args.what {
        Benched::Inference => inference::run(args, global)?,
        Benched::Train => training::run(args, global)?,
        Benched::Data => data::run(args, global)?,
    }
    Ok(End::Done)
}

/// Refuses options of what is not timed.
fn check(args: &Bench) -> Result<()> {
    let [inference, train, data] =
        [Benched::Inference, Benched::Train, Benched::Data].map(|what| args.what == what);
    let said = [
        ("--data", args.data.is_some(), data, "bench data"),
        ("--run", args.run.is_some(), !data, "models"),
        ("--policy", args.policy.is_some(), !data, "models"),
        ("--flops", !args.flops.is_empty(), !data, "models"),
        ("--keep", !args.keep.is_empty(), !data, "models"),
        ("--ragged", args.ragged, !data, "models"),
        ("--in-flight", args.in_flight > 1, inference, "inference"),
        ("--whole", args.whole, train, "bench train"),
    ];
    for (option, given, fits, of) in said {
        if given && !fits {
            bail!("{option} is for {of}");
        }
    }
    Ok(())
}

impl Bench {
    /// Images of a batch.
    fn batches(&self, default: usize) -> Vec<usize> {
        if self.batch.is_empty() {
            vec![default]
        } else {
            self.batch.clone()
        }
    }

    fn effort(&self) -> Effort {
        Effort {
            warmup: self.warmup,
            repeats: self.repeats,
            time: self.seconds.unwrap_or_default(),
        }
    }
}

/// One JSON object a line.
fn print_lines<T: Serialize>(rows: &[T]) {
    for row in rows {
        println!("{}", serde_json::json!(row));
    }
}

/// For so many cases in all, each of which takes the rounds that the effort says.
fn bench_bar(effort: &Effort, cases: usize) -> ProgressBar {
    let rounds = effort.warmup + effort.repeats;
    progress_bar((rounds * cases) as u64, "passes")
}
