//! `cargo xtask`: builds, runs and checks APT.

mod backend;
mod curves;
#[path = "../../crates/cli/src/vulkan.rs"]
mod vulkan;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

/// Builds, runs and checks APT.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build, and run `aptvit train`; without arguments, the quick start
    #[command(disable_help_flag = true)]
    Train(Rest),
    /// Build, and run `aptvit eval`
    #[command(disable_help_flag = true)]
    Eval(Rest),
    /// Build, and run `aptvit infer`
    #[command(disable_help_flag = true)]
    Infer(Rest),
    /// Build, and run `aptvit bench`
    #[command(disable_help_flag = true)]
    Bench(Rest),
    /// Build, and run `aptvit calibrate`
    #[command(disable_help_flag = true)]
    Calibrate(Rest),
    /// Build, and run `aptvit sweep`
    #[command(disable_help_flag = true)]
    Sweep(Rest),
    /// Build, and run `aptvit export`
    #[command(disable_help_flag = true)]
    Export(Rest),
    /// Build, and run `aptvit fetch`
    #[command(disable_help_flag = true)]
    Fetch(Rest),
    /// Build with remote devices beside the backend, and run `aptvit serve`
    #[command(disable_help_flag = true)]
    Serve(Rest),
    /// Build, and run `aptvit info`
    #[command(disable_help_flag = true)]
    Info(Rest),
    /// Time ViT-S/16 against keep rate and image size, and draw both beside what FLOPs promise
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
}

#[derive(Debug, Parser)]
struct Rest {
    /// Arguments for `aptvit`, after an optional `--backend flex|wgpu|tch|cuda`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
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
        Task::Train(args) => aptvit("train", args.rest),
        Task::Eval(args) => aptvit("eval", args.rest),
        Task::Infer(args) => aptvit("infer", args.rest),
        Task::Bench(args) => aptvit("bench", args.rest),
        Task::Calibrate(args) => aptvit("calibrate", args.rest),
        Task::Sweep(args) => aptvit("sweep", args.rest),
        Task::Export(args) => aptvit("export", args.rest),
        Task::Fetch(args) => aptvit("fetch", args.rest),
        Task::Serve(args) => aptvit("serve", args.rest),
        Task::Info(args) => aptvit("info", args.rest),
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
    }
}

/// Builds the program and runs it in the caller's folder. Ctrl-C reaches the program, which
/// ends cleanly; its exit code is ours.
fn aptvit(command: &str, mut rest: Vec<String>) -> Result<ExitCode> {
    let mut backend = "flex".to_string();
    if let Some(index) = rest.iter().position(|arg| arg == "--backend") {
        if index + 1 >= rest.len() {
            bail!("--backend: expected flex, wgpu, tch or cuda, or several with commas");
        }
        backend = rest.remove(index + 1);
        rest.remove(index);
    }
    let backend = features(command, backend);
    let program = build(&backend)?;
    let mut child = Command::new(&program)
        .arg(command)
        .args(rest)
        .envs(backend::environment(&backend)?)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let _ = ctrlc::set_handler(|| ());
    let status = child.wait()?;
    Ok(ExitCode::from(status.code().map_or(1, |code| code as u8)))
}

/// What is built in: the backend, and for `serve` what lends devices.
fn features(command: &str, backend: String) -> String {
    match command == "serve" && !backend.split(',').any(|feature| feature == "remote") {
        true => backend + ",remote",
        false => backend,
    }
}

/// Builds the program. Returns where it is.
fn build(backend: &str) -> Result<PathBuf> {
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--package",
        "apt-cli",
        "--no-default-features",
        "--features",
    ]);
    build.arg(backend).envs(backend::environment(backend)?);
    if !build.status().context("cannot run cargo")?.success() {
        bail!("the build failed");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        Into::into,
    );
    let name = format!("aptvit{}", std::env::consts::EXE_SUFFIX);
    Ok(target.join("release").join(name))
}

/// Runs all tests and closes with one line that counts them.
fn test(backend: &str, rest: &[String]) -> Result<ExitCode> {
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--no-fail-fast"]);
    command.envs(backend::environment(backend)?);
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
    Ok(match success && failed == 0 && enough {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
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
        let of = |command, backend: &str| features(command, backend.to_string());
        assert_eq!(of("serve", "flex"), "flex,remote");
        assert_eq!(of("serve", "cuda,remote"), "cuda,remote");
        assert_eq!(of("train", "flex"), "flex");
    }

    #[test]
    fn results_are_counted() {
        let line = "ok. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        let counts = [" passed", " failed", " ignored"].map(|word| number_before(line, word));
        assert_eq!(counts, [12, 3, 1]);
    }
}
