#![cfg_attr(test, allow(clippy::unwrap_used))]
//! `cargo xtask`: builds, runs and checks APT.

mod backend;
mod curves;
mod gpu_bundle;
mod python;
#[path = "../../crates/cli/src/vulkan.rs"]
mod vulkan;

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use self::backend::Environment;

/// Builds, runs and checks APT.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100, after_help = OTHERS)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

const OTHERS: &str = "\
Every other command is one of the program's: it is built, and gets the command with its arguments.
  cargo xtask train                              the quick start
  cargo xtask train --help                       what it takes
  cargo xtask bench --backend flex,cuda          with other backends than flex built in
`--backend` takes flex, wgpu, tch, cuda and remote, or several with commas; `lend` has remote anyway.";

#[derive(Debug, Subcommand)]
enum Task {
    /// Time ViT-S/16 against layer keep rate and image size, and draw both beside what FLOPs promise
    Curves(curves::Curves),
    /// Run every test: units, properties, golden values, the program itself, examples in docs
    Test {
        /// Which backend the tests run on; with others after commas, those are built in, too
        #[arg(long, default_value = "flex", value_name = "flex|wgpu|tch|cuda")]
        backend: String,
        /// Arguments for `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Check format, lints and docs, then test
    Ci,
    /// Pack programs, tests and data for a machine that has a GPU, and neither Rust nor a network
    GpuBundle(gpu_bundle::GpuBundle),
    /// A command of `aptvit`, with its arguments
    #[command(external_subcommand)]
    Aptvit(Vec<OsString>),
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Curves(args) => curves::run(&args),
        Task::Test { backend, rest } => test(&backend, &rest),
        Task::Ci => {
            check(&["fmt", "--all", "--check"])?;
            check(&[
                "clippy",
                "--release",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])?;
            check(&["doc", "--release", "--workspace", "--no-deps"])?;
            test("flex", &[])
        }
        Task::GpuBundle(args) => gpu_bundle::run(&args),
        Task::Aptvit(args) => aptvit(args),
    }
}

/// Builds the program and runs it in the caller's folder. Ctrl-C reaches the program, which
/// ends cleanly; its exit code is ours.
fn aptvit(mut args: Vec<OsString>) -> Result<ExitCode> {
    let backends = take_backends(&mut args)?;
    backend::check_devices(&backends)?;
    let environment = Environment::find(&backends)?;
    let program = build(&backends, &environment)?;
    let mut child = Command::new(&program)
        .args(args)
        .envs(environment.for_program())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let _ = ctrlc::set_handler(|| ());
    let status = child.wait()?;
    Ok(ExitCode::from(status.code().map_or(1, |code| code as u8)))
}

/// What is built in: what `--backend` says, which goes out of `args` (the command and its
/// arguments), and for `lend` what lends devices.
fn take_backends(args: &mut Vec<OsString>) -> Result<String> {
    let mut backends = "flex".to_string();
    if let Some(index) = args.iter().position(|arg| arg == "--backend") {
        if index + 1 >= args.len() {
            bail!("--backend: expected flex, wgpu, tch or cuda, or several with commas");
        }
        backends = args.remove(index + 1).to_string_lossy().into_owned();
        args.remove(index);
    }
    let lends = args.first().is_some_and(|command| command == "lend");
    if lends && !backends.split(',').any(|feature| feature == "remote") {
        backends += ",remote";
    }
    Ok(backends)
}

/// Builds the program. Returns where it is.
fn build(backends: &str, environment: &Environment) -> Result<PathBuf> {
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--package",
        "apt-cli",
        "--no-default-features",
        "--features",
    ]);
    build.arg(backends).envs(environment.for_cargo());
    if !build.status().context("cannot run cargo")?.success() {
        bail!("the build failed");
    }
    let name = format!("aptvit{}", std::env::consts::EXE_SUFFIX);
    Ok(target_folder().join("release").join(name))
}

/// Where cargo builds.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

/// The workspace's folder.
fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Runs all tests and closes with one line that counts them.
fn test(backend: &str, rest: &[String]) -> Result<ExitCode> {
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--no-fail-fast"]);
    backend::check_devices(backend)?;
    command.envs(Environment::find(backend)?.for_cargo());
    // Of several, the tests run on the first.
    let first = backend.split(',').next().unwrap_or(backend);
    command.env("BURN_DEVICE", first);
    if backend != "flex" {
        command.args(["--no-default-features", "--features", backend]);
    }
    if first == "wgpu" {
        // Trying out kernels takes longer than all tests.
        command.env("CUBECL_AUTOTUNE_LEVEL", "minimal");
    }
    command.args(rest).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut counts = [0u64; 3];
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result: ") {
            for (count, word) in counts.iter_mut().zip([" passed", " failed", " ignored"]) {
                *count += number_before(result, word);
            }
        }
    }
    let success = child.wait()?.success();
    let [passed, failed, skipped] = counts;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    // Where nothing ran, something is wrong, unless it was only to be built.
    let enough = passed > 0 || rest.iter().any(|arg| arg == "--no-run");
    Ok(if success && failed == 0 && enough {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn number_before(text: &str, word: &str) -> u64 {
    let before = text
        .split(word)
        .next()
        .filter(|before| before.len() < text.len());
    let number = before.and_then(|before| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn check(args: &[&str]) -> Result<()> {
    eprintln!("cargo {}", args.join(" "));
    let mut command = cargo();
    if args[0] == "doc" {
        command.env("RUSTDOCFLAGS", "-D warnings");
    }
    if !command
        .args(args)
        .status()
        .context("cannot run cargo")?
        .success()
    {
        bail!("cargo {} found something", args[0]);
    }
    Ok(())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_serve_adds_the_remote_feature_and_only_once() {
        let of = |args: &[&str]| take_backends(&mut args.iter().map(Into::into).collect()).unwrap();
        assert_eq!(of(&["lend"]), "flex,remote");
        assert_eq!(of(&["lend", "--backend", "cuda,remote"]), "cuda,remote");
        assert_eq!(of(&["train"]), "flex");
    }

    #[test]
    fn a_command_that_is_not_known_here_goes_to_the_program_whole() {
        let args = [
            "cargo xtask",
            "optimise",
            "--backend",
            "tch",
            "--help",
            "-x",
        ];
        let Task::Aptvit(mut rest) = Args::try_parse_from(args).unwrap().task else {
            panic!("taken for a task");
        };
        assert_eq!(take_backends(&mut rest).unwrap(), "tch");
        assert_eq!(rest, ["optimise", "--help", "-x"]);
        let mut rest = vec!["train".into(), "--backend".into()];
        assert!(take_backends(&mut rest).is_err());
    }

    #[test]
    fn results_are_counted() {
        let line = "ok. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        let counts = [" passed", " failed", " ignored"].map(|word| number_before(line, word));
        assert_eq!(counts, [12, 3, 1]);
    }
}
