//! The LLVM with which CubeCL compiles kernels for CUDA.
//!
//! CubeCL's bundler downloads it when it is built. Where it cannot, the same version is laid out from
//! Python packages, as the bundler would.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Environment;
use crate::python;

/// Which LLVM the bundler (crate tracel-llvm-bundler) brings: its own version.
const BUNDLE: &str = "23.1.0-4";
/// That LLVM on PyPI.
const PACKAGES: [&str; 2] = [
    "mlc-llvm-static==23.1.1.post0",
    "mlc-llvm-static-extra-targets==23.1.1.post0",
];
/// Where the packages have it.
const IN_PACKAGES: &str = "mlc_llvm_static/static";
/// The bundler looks no further where this file is.
const STAMP: &str = ".tracel-llvm-installed";
/// Where LLVM comes from, if not from wherever it can be had.
const SOURCE: &str = "APT_LLVM";

pub fn find(environment: &mut Environment) -> Result<()> {
    // Elsewhere the bundler does not look into XDG_DATA_HOME, and PyPI's LLVM is for Linux.
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let own = std::path::absolute(crate::target_folder().join("llvm-for-cuda"))?;
    let Some(source) = choose(data_home().as_deref(), &own, &requested()?, is_reachable) else {
        return Ok(());
    };
    if let Source::PyPi(reason) = source {
        eprintln!(
            "cuda: {reason}, so LLVM is installed from PyPI into {}",
            own.display()
        );
        install(&own)?;
    }
    environment.build.push(("XDG_DATA_HOME", own.into()));
    Ok(())
}

/// What `APT_LLVM` asks for.
#[derive(Debug, PartialEq)]
enum Request {
    Any,
    PyPi,
}

fn requested() -> Result<Request> {
    match env::var(SOURCE).as_deref() {
        Err(_) | Ok("") => Ok(Request::Any),
        Ok("pypi") => Ok(Request::PyPi),
        Ok(other) => bail!(
            "{SOURCE}={other}: expected pypi, or nothing for what can be had: the download of \
             CubeCL's bundler, else PyPI"
        ),
    }
}

/// Where an LLVM that is not the bundler's own comes from.
#[derive(Debug, PartialEq)]
enum Source {
    /// It was laid out before.
    LaidOut,
    /// From PyPI, for this reason.
    PyPi(&'static str),
}

/// None where the bundler has its LLVM, or will download it.
fn choose(
    data_home: Option<&Path>,
    own: &Path,
    request: &Request,
    is_reachable: impl FnOnce() -> bool,
) -> Option<Source> {
    if data_home.is_some_and(is_installed) {
        None
    } else if is_installed(own) {
        Some(Source::LaidOut)
    } else if *request == Request::PyPi {
        Some(Source::PyPi("APT_LLVM=pypi"))
    } else if is_reachable() {
        None
    } else {
        Some(Source::PyPi("CubeCL's LLVM cannot be downloaded"))
    }
}

/// The user's folder for programs' data, as the bundler finds it.
fn data_home() -> Option<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))
}

/// Where the bundler has its LLVM.
fn place(data_home: &Path) -> PathBuf {
    data_home
        .join("tracel")
        .join(format!("tracel-llvm-{BUNDLE}"))
}

fn is_installed(data_home: &Path) -> bool {
    place(data_home).join(STAMP).exists()
}

/// Can what the bundler downloads be had? Asked of Python, which knows proxies, and without which
/// there is no other way.
fn is_reachable() -> bool {
    let url = format!(
        "https://github.com/tracel-ai/tracel-llvm/releases/download/v{BUNDLE}/linux-x64.checksums.json"
    );
    let ask = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=10)";
    let status = Command::new(python::command())
        .args(["-c", ask, &url])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.map_or(true, |status| status.success())
}

/// Lays LLVM out in `data_home`, as the bundler would.
fn install(data_home: &Path) -> Result<()> {
    let (packages, place) = (data_home.join("packages"), place(data_home));
    // What an interrupted installation left.
    for folder in [&packages, &place] {
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    let python = python::command();
    let pip = Command::new(python)
        .args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--target"])
        .arg(&packages)
        .args(PACKAGES)
        .status()
        .with_context(|| format!("{python} does not run; LLVM's packages need Python's pip"))?;
    if !pip.success() {
        bail!(
            "the backend cuda needs LLVM {BUNDLE} to build, and pip could not install it ({}); where \
             it can, this command fills {}, which can be copied here",
            PACKAGES.join(", "),
            data_home.display()
        );
    }
    let parent = place.parent().unwrap_or(data_home);
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    fs::rename(packages.join(IN_PACKAGES), &place)
        .with_context(|| format!("pip's packages have no {IN_PACKAGES}"))?;
    let config = place.join("bin/llvm-config");
    make_executable(&config)?;
    let targets = Command::new(&config)
        .arg("--targets-built")
        .output()
        .with_context(|| format!("{} does not run", config.display()))?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    if !targets.split_whitespace().any(|target| target == "NVPTX") {
        bail!("PyPI's LLVM compiles for {targets:?}; expected NVPTX among them");
    }
    fs::write(place.join(STAMP), "")?;
    fs::remove_dir_all(&packages)?;
    Ok(())
}

/// Wheels do not say what can be executed.
#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data home in which an LLVM is, or is not.
    fn data_home(name: &str, installed: bool) -> PathBuf {
        let home = env::temp_dir().join(format!("apt-xtask-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(place(&home)).unwrap();
        if installed {
            fs::write(place(&home).join(STAMP), "").unwrap();
        }
        home
    }

    #[test]
    fn the_bundle_is_that_of_the_bundler_in_use() {
        let lock = include_str!("../../../Cargo.lock");
        let version = format!("name = \"tracel-llvm-bundler\"\nversion = \"{BUNDLE}\"");
        assert!(lock.contains(&version), "Cargo.lock has another bundler");
    }

    #[test]
    fn what_is_there_is_taken_and_pypi_comes_last() {
        let (with, without) = (data_home("with", true), data_home("without", false));
        let never = || panic!("asked the network");
        let choose = |home: &Path, own: &Path, request| choose(Some(home), own, &request, never);
        // The bundler's own, whatever is asked for.
        assert_eq!(choose(&with, &without, Request::Any), None);
        assert_eq!(choose(&with, &with, Request::PyPi), None);
        // One that was laid out before.
        let laid_out = Some(Source::LaidOut);
        assert_eq!(choose(&without, &with, Request::Any), laid_out);
        // What was asked for.
        let asked = choose(&without, &without, Request::PyPi);
        assert_eq!(asked, Some(Source::PyPi("APT_LLVM=pypi")));
        // Nothing is there: the download, if it can be had.
        let download = |there| super::choose(None, &without, &Request::Any, || there);
        assert_eq!(download(true), None);
        assert!(matches!(download(false), Some(Source::PyPi(_))));
        for home in [with, without] {
            fs::remove_dir_all(home).unwrap();
        }
    }
}
