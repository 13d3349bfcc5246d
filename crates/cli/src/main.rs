#![cfg_attr(test, allow(clippy::unwrap_used))]
//! `aptvit`: train, evaluate and run Vision Transformers with pruning agents.

mod args;
mod bench;
mod calibrate;
mod device;
mod eval;
mod export;
mod fetch;
mod infer;
mod info;
mod memory;
mod panics;
mod picture;
mod serve;
mod sweep;
mod table;
mod train;
#[cfg(feature = "wgpu")]
mod vulkan;

use std::path::Path;
use std::process::ExitCode;

use apt_rl_trainer::RunFolder;
use args::{Args, Command, Global};
use clap::{CommandFactory, Parser};

/// What a command ended with; errors end with 1, and wrong usage with 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All was done.
    Done,
    /// It was interrupted, and can go on later.
    Interrupted,
}

fn main() -> ExitCode {
    panics::watch();
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&args.global.log).unwrap_or_default();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    match panics::caught(|| run(&args)) {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(130),
        Err(error) => {
            // The chain without repetition: transparent errors say the same twice.
            let mut message = error.to_string();
            for cause in error.chain().skip(1) {
                let cause = cause.to_string();
                if !message.contains(&cause) {
                    message = format!("{message}: {cause}");
                }
            }
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// A run's folder, its model to be computed in the floats that were asked for.
fn open_run(folder: &Path, global: &Global) -> anyhow::Result<RunFolder> {
    let mut run = RunFolder::open(folder)?;
    if let Some(dtype) = global.dtype {
        run.config.train.dtype = dtype;
    }
    Ok(run)
}

fn run(args: &Args) -> anyhow::Result<End> {
    match args.command {
        Command::Fetch(_) | Command::Info(_) | Command::Completions { .. } => (),
        Command::Train(_) | Command::Serve(_) => device::choose(&args.global.device, true)?,
        _ => device::choose(&args.global.device, false)?,
    }
    if let Some(threads) = args.global.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()?;
    }
    match &args.command {
        Command::Train(train) => train::run(train, &args.global),
        Command::Eval(eval) => eval::run(eval, &args.global),
        Command::Infer(infer) => infer::run(infer, &args.global),
        Command::Calibrate(calibrate) => calibrate::run(calibrate, &args.global),
        Command::Sweep(sweep) => sweep::run(sweep, &args.global),
        Command::Bench(bench) => bench::run(bench, &args.global),
        Command::Export(export) => export::run(export, &args.global),
        Command::Serve(serve) => serve::run(serve, &args.global),
        Command::Fetch(fetch) => fetch::run(fetch, &args.global),
        Command::Info(info) => info::run(info, &args.global),
        Command::Completions { shell } => {
            clap_complete::generate(
                *shell,
                &mut Args::command(),
                "aptvit",
                &mut std::io::stdout(),
            );
            Ok(End::Done)
        }
    }
}
