//! LibTorch, from Python's torch or unpacked by itself.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Environment, Variable};
use crate::python;

/// The LibTorch that Burn's bindings are made for.
const EXPECTED: &str = "2.9.0";
/// With it set, the bindings' build takes another LibTorch, too.
const BYPASS: &str = "LIBTORCH_BYPASS_VERSION_CHECK";

/// `LIBTORCH`'s folder, else Python's torch.
pub fn find(environment: &mut Environment) -> Result<()> {
    if let Some(root) = env::var_os("LIBTORCH") {
        let library = Path::new(&root).join("lib");
        if !library.is_dir() {
            bail!(
                "LIBTORCH={}: it has no folder lib; unpack LibTorch {EXPECTED} there",
                root.display()
            );
        }
        environment.run.push(library_path(&library)?);
        return Ok(());
    }
    let python = python::command();
    let ask = "import os, torch; print(torch.__version__); print(os.path.dirname(torch.__file__))";
    let advice = format!(
        "the backend tch needs LibTorch {EXPECTED}: install it with `{python} -m pip install \
         torch=={EXPECTED}` (in a virtual environment that is active), or unpack LibTorch {EXPECTED} \
         and set LIBTORCH to its folder"
    );
    let output = Command::new(python)
        .args(["-c", ask])
        .output()
        .with_context(|| format!("{python} does not run; {advice}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let (Some(version), Some(folder), true) = (lines.next(), lines.next(), output.status.success())
    else {
        bail!("{python} has no torch; {advice}");
    };
    if !is_expected(version) {
        if env::var_os(BYPASS).is_none() {
            bail!(
                "{python} has torch {version}; {advice}; or set {BYPASS}=1 to build with {version} \
                 all the same"
            );
        }
        eprintln!("warning: {}", another_version(version));
    }
    environment
        .build
        .push(("LIBTORCH_USE_PYTORCH", OsString::from("1")));
    let library = PathBuf::from(folder).join("lib");
    environment.run.push(library_path(&library)?);
    Ok(())
}

/// `2.9.0+cu128` is 2.9.0.
fn is_expected(version: &str) -> bool {
    version.split('+').next() == Some(EXPECTED)
}

fn another_version(found: &str) -> String {
    format!(
        "found torch {found}, expected {EXPECTED}; {BYPASS} is set, so it is used: where an operation \
         has changed since, the build fails, or the program does when it gets there"
    )
}

/// The variable by which the system finds libraries, with `folder` in front.
fn library_path(folder: &Path) -> Result<Variable> {
    let name = if cfg!(windows) {
        "PATH"
    } else if cfg!(target_os = "macos") {
        "DYLD_LIBRARY_PATH"
    } else {
        "LD_LIBRARY_PATH"
    };
    let before = env::var_os(name).unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(env::split_paths(&before));
    Ok((name, env::join_paths(folders)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_of_the_expected_version_is_expected() {
        for version in ["2.9.0", "2.9.0+cpu", "2.9.0+cu128"] {
            assert!(is_expected(version), "{version}");
        }
        for version in ["2.9.1", "2.11.0+cu130", "2.9.0rc1", ""] {
            assert!(!is_expected(version), "{version}");
        }
    }

    #[test]
    fn the_warning_names_both_versions_and_is_one_line() {
        let text = another_version("2.11.0+cu130");
        assert!(text.contains("2.11.0+cu130") && text.contains(EXPECTED));
        assert!(!text.contains('\n'));
    }
}
