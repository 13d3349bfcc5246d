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
mod picture;
mod table;
mod train;

use std::process::ExitCode;

use args::{Args, Command};
use clap::{CommandFactory, Parser};

/// Every tensor is an allocation; this allocator keeps freed pages for the next one, where the
/// system's gives large ones back and has them zeroed again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a command ended with; errors end with 1, and wrong usage with 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All was done.
    Done,
    /// It was interrupted, and can go on later.
    Interrupted,
}

/// A reader that has seen enough, as in `aptvit info | head`, ends the program without a word.
fn end_with_the_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if message.starts_with("failed printing to stdout") {
            std::process::exit(141); // 128 + SIGPIPE
        }
        report(panic);
    }));
}

fn main() -> ExitCode {
    end_with_the_reader();
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&args.global.log).unwrap_or_default();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    match run(&args) {
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

fn run(args: &Args) -> anyhow::Result<End> {
    match args.command {
        Command::Fetch(_) | Command::Info(_) | Command::Completions { .. } => (),
        _ => device::choose(args.global.device)?,
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
        Command::Bench(bench) => bench::run(bench, &args.global),
        Command::Export(export) => export::run(export, &args.global),
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
