#![cfg_attr(test, allow(clippy::unwrap_used))]
//! `aptvit`: train, evaluate and run Vision Transformers with pruning agents.

mod allocator;
mod bench;
mod calibrate;
mod device;
mod eval;
mod export;
mod fetch;
mod fit;
mod global;
mod infer;
mod info;
mod lend;
mod memory;
mod model_args;
mod named_pictures;
mod panics;
mod policies;
mod progress_bar;
mod prune;
mod report;
mod samples;
mod selection;
mod serve;
mod signals;
mod sweep;
mod table;
mod token;
mod train;
mod values;
#[cfg(feature = "wgpu")]
mod vulkan;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use apt_vit_model::printable_text;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use global::Global;

/// Trains Vision Transformers together with policies that prune their tokens, and runs them.
#[derive(Debug, Parser)]
#[command(name = "aptvit", version, about, max_term_width = 100, after_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  aptvit train                                         the quick start: generated images
  aptvit train --config configs/cifar10-small.toml     CIFAR-10, downloaded
  aptvit train --resume runs/cifar10-small             go on after an interruption
  aptvit eval --run runs/cifar10-small --mode drop     accuracy and throughput, pruned
  aptvit infer --run runs/cifar10-small cat.jpg        what is in a picture
  aptvit report runs/cifar10-small --open              a page with curves and pictures
  aptvit export --run runs/cifar10-small --out out     the model for timm to load
  aptvit serve --model mine=runs/cifar10-small         the model over HTTP";

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model and its policy, or go on with a training
    Train(train::Train),
    /// Measure a model on test images, dense and pruned
    Eval(eval::Eval),
    /// Classify pictures, and show what the policy removed
    Infer(infer::Infer),
    /// Keep labelled images that a model looks up: new classes and corrections without training
    Memory(memory::Memory),
    /// Find what a trained policy has to remove to meet a compute budget
    Calibrate(calibrate::Calibrate),
    /// Make a model that is trained already faster, without labels: a policy learns on it
    Prune(prune::Prune),
    /// Compare policies at several budgets, each trained from one start
    Sweep(sweep::Args),
    /// Time a model, dense and pruned, its training step, or the loading of images
    Bench(bench::Bench),
    /// Write a page about a run, a sweep or a pruned model, or about several side by side
    Report(report::Report),
    /// Write a trained model for timm or Hugging Face to load, its policy beside it
    Export(export::Export),
    /// Answer over HTTP, with a budget that follows the load, and a page to try it
    Serve(serve::Serve),
    /// Lend this machine's devices to trainings on other machines
    Lend(lend::Lend),
    /// Download a data set or published weights into the cache
    Fetch(fetch::Fetch),
    /// Show backends and devices, policies, a model's size and cost, or a run
    Info(info::Info),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What a command ended with; errors end with 1, and wrong usage with 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All was done.
    Done,
    /// It was interrupted, and can go on later.
    Interrupted,
}

fn main() -> ExitCode {
    allocator::keep_freed_pages();
    panics::watch();
    let mut args = match Args::try_parse() {
        Ok(args) => args,
        Err(said) => return answer(&said),
    };
    let filter = tracing_subscriber::EnvFilter::try_new(&args.global.log).unwrap_or_default();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours())
        // It would be printed where nobody reads.
        .log_internal_errors(false)
        .without_time()
        .init();
    match panics::caught(|| run(&mut args)) {
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
            // A name from elsewhere may be in it.
            let lines: Vec<String> = message.lines().map(printable_text).collect();
            let _ = writeln!(std::io::stderr(), "error: {}", lines.join("\n"));
            ExitCode::FAILURE
        }
    }
}

/// Help, the version, or what is wrong with the command line.
fn answer(said: &clap::Error) -> ExitCode {
    let printed = said.print().and_then(|()| std::io::stdout().flush());
    let code = u8::try_from(said.exit_code()).unwrap_or(2);
    ExitCode::from(if printed.is_err() { code.max(1) } else { code })
}

/// May logs have colours? On a terminal, unless `NO_COLOR` is set to something. The rest of the program has none of its
/// own: clap and the bars look by themselves.
fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !refused
}

fn run(args: &mut Args) -> anyhow::Result<End> {
    match &args.command {
        Command::Fetch(_) | Command::Info(_) | Command::Completions { .. } => (),
        Command::Train(_) | Command::Lend(_) => device::choose(&args.global.device, true)?,
        _ => device::choose(&args.global.device, false)?,
    }
    if let Some(threads) = args.global.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()?;
    }
    if !matches!(
        args.command,
        Command::Fetch(_) | Command::Info(_) | Command::Completions { .. }
    ) {
        let trains = match &args.command {
            Command::Train(_) | Command::Sweep(_) | Command::Lend(_) => true,
            Command::Bench(bench) => bench.trains(),
            _ => false,
        };
        args.global.choose_dtype(device::open, trains)?;
    }
    match &args.command {
        Command::Train(train) => train::run(train, &args.global),
        Command::Eval(eval) => eval::run(eval, &args.global),
        Command::Infer(infer) => infer::run(infer, &args.global),
        Command::Memory(memory) => memory::run(memory, &args.global),
        Command::Calibrate(calibrate) => calibrate::run(calibrate, &args.global),
        Command::Prune(prune) => prune::run(prune, &args.global),
        Command::Sweep(sweep) => sweep::run(sweep, &args.global),
        Command::Bench(bench) => bench::run(bench, &args.global),
        Command::Report(report) => report::run(report),
        Command::Export(export) => export::run(export, &args.global),
        Command::Serve(serve) => serve::run(serve, &args.global),
        Command::Lend(lend) => lend::run(lend, &args.global),
        Command::Fetch(fetch) => fetch::run(fetch, &args.global),
        Command::Info(info) => info::run(info, &args.global),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "aptvit", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            Ok(End::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
