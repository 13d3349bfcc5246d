//! `aptvit bench`

mod args;
mod clock;
mod data;
mod inference;
mod output;
mod parts;
mod policies;
mod steps;
mod subject;
mod training;

use anyhow::{Result, bail};

pub use self::args::Bench;
use self::args::Benched;
use crate::End;
use crate::global::Global;

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
        (
            "--data",
            args.data.is_some(),
            data || inference && args.weights().is_some(),
            "bench data, and for published weights",
        ),
        (
            "--fit-on",
            args.fit_on.is_some(),
            inference && args.weights().is_some(),
            "published weights",
        ),
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
