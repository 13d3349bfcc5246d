//! `cargo xtask gpu-bundle`: what `bench/gpu/run.sh` needs on a machine that has a GPU, and neither
//! Rust nor a network.

mod archive;
mod images;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Deserialize;

use self::images::Images;
use crate::backend::Environment;
use crate::vulkan;

/// The tests that travel, as one program: what must hold on every device.
const TEST: &str = "gpu";
/// The golden values, as `APT_GOLDEN` takes their folder.
const GOLDEN: &str = "crates/rl-trainer/tests/golden/apt-small";

#[derive(Debug, Parser)]
pub struct GpuBundle {
    /// The folder to lay out, instead of an older bundle there; DIR.tar.xz is packed beside it
    /// [default: target/gpu-bundle]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Images to train and measure with: a tgz of NAME/{train,test}/CLASS/*.jpg
    #[arg(long, value_name = "CIFAR.tgz")]
    data: Option<PathBuf>,
    /// How many of them: as many of each class, of train and of test; or all
    #[arg(long, value_name = "N|all", default_value = "2000")]
    images: Images,
    /// What is built in
    #[arg(long, value_name = "BACKENDS", default_value = "flex,wgpu,tch,cuda")]
    backends: String,
    /// Lay the folder out, and do not pack it
    #[arg(long)]
    no_archive: bool,
}

pub fn run(args: &GpuBundle) -> Result<ExitCode> {
    let environment = Environment::find(&args.backends)?;
    let program = crate::build(&args.backends, &environment)?;
    // Without CUDA, the workspace has no such program.
    let has_tests = args.backends.split(',').any(|backend| backend == "cuda");
    let tests = has_tests.then(|| build_tests(&args.backends, &environment));
    let tests = tests.transpose()?;

    let out = args.out.clone();
    let out = out.unwrap_or_else(|| crate::target_folder().join("gpu-bundle"));
    make_room(&out)?;
    let root = crate::root();
    let bin = out.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    strip(&program, &bin.join("aptvit"))?;
    match tests {
        Some(tests) => strip(&tests, &bin.join("tests"))?,
        None => eprintln!("without tests, which need the backend cuda"),
    }
    copy_folder(&root.join("bench/gpu"), &out)?;
    copy_folder(&root.join(GOLDEN), &out.join("golden/apt-small"))?;
    copy_folder(&root.join("configs"), &out.join("configs"))?;
    add_data(args, &out)?;
    add_loader(&out)?;

    archive::print_sizes(&out)?;
    if !args.no_archive {
        archive::pack(&out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes a bundle that was made before, and nothing else.
fn make_room(out: &Path) -> Result<()> {
    let is_empty = || out.read_dir().is_ok_and(|mut files| files.next().is_none());
    if !out.exists() || is_empty() {
        return Ok(());
    }
    if !out.join("bin/aptvit").exists() {
        bail!(
            "--out {}: there are files, and not a bundle's; expected a folder that is empty or new",
            out.display()
        );
    }
    fs::remove_dir_all(out).with_context(|| format!("cannot remove {}", out.display()))
}

/// A line of what cargo builds.
#[derive(Debug, Deserialize)]
struct Built {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

/// Builds the tests, of the whole workspace's features: then nothing that the program has, too, is built
/// twice. Returns where they are.
fn build_tests(backends: &str, environment: &Environment) -> Result<PathBuf> {
    let output = crate::cargo()
        .args(["test", "--release", "--workspace", "--no-default-features"])
        .args(["--features", backends, "--test", TEST, "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .envs(environment.for_cargo())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests' build failed");
    }
    executable(&String::from_utf8_lossy(&output.stdout), TEST)
}

/// Where cargo, which says so in `lines`, has put a test program.
fn executable(lines: &str, test: &str) -> Result<PathBuf> {
    let built = lines
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut found = built.filter_map(|built: Built| {
        let is_test = built.target.is_some_and(|target| target.name == test);
        built.executable.filter(|_| is_test)
    });
    found
        .next()
        .with_context(|| format!("cargo built no test {test}"))
}

/// Copies a program without what only debuggers read.
fn strip(program: &Path, to: &Path) -> Result<()> {
    let status = Command::new("strip")
        .arg("-o")
        .args([to, program])
        .status()
        .context("cannot run strip; install binutils")?;
    if !status.success() {
        bail!("strip could not read {}", program.display());
    }
    Ok(())
}

fn add_data(args: &GpuBundle, out: &Path) -> Result<()> {
    let Some(data) = &args.data else {
        eprintln!("without data: --data CIFAR.tgz takes images along");
        return Ok(());
    };
    fs::create_dir_all(out.join("data"))?;
    let copied = images::copy(data, &args.images, &out.join("data/cifar10.tgz"))?;
    eprintln!("{copied} images of {}", data.display());
    Ok(())
}

/// Vulkan's loader, which a machine with a driver may lack.
fn add_loader(out: &Path) -> Result<()> {
    let architecture = std::env::consts::ARCH;
    let folders = [
        format!("/usr/lib/{architecture}-linux-gnu"),
        "/usr/lib64".into(),
        "/usr/lib".into(),
    ];
    let places = folders.map(|folder| Path::new(&folder).join(vulkan::LOADER));
    let Some(loader) = places.iter().find(|place| place.exists()) else {
        eprintln!(
            "without Vulkan's loader, which is not installed: wgpu needs the other machine's"
        );
        return Ok(());
    };
    let to = out.join("lib");
    fs::create_dir_all(&to)?;
    copy(loader, &to.join(vulkan::LOADER))
}

/// Copies a folder's files, and its folders, without what running them left there.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let entries = from
        .read_dir()
        .with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if [".gitignore", "__pycache__", "out"]
            .iter()
            .any(|left| name == *left)
        {
            continue;
        }
        let target = to.join(name);
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            copy(&path, &target)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bundle_is_replaced() {
        let folder = std::env::temp_dir().join(format!("apt-bundle-{}", std::process::id()));
        assert!(make_room(&folder).is_ok());
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("thesis.tex"), "").unwrap();
        assert!(make_room(&folder).is_err());
        fs::write(folder.join("bin/aptvit"), "").unwrap();
        assert!(make_room(&folder).is_ok());
        assert!(!folder.exists());
    }

    #[test]
    fn a_test_program_is_found_in_what_cargo_says() {
        let lines = r#"{"reason":"compiler-artifact","target":{"name":"apt-data"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"gpu"},"executable":"/deps/gpu-1a"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(lines, "gpu").unwrap(), Path::new("/deps/gpu-1a"));
        assert!(executable(lines, "golden").is_err());
    }
}
