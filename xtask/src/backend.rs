//! What a backend needs beside Rust: whether it is there, and how cargo and the program find it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::vulkan;

/// The LibTorch that Burn's bindings are made for.
const TORCH: &str = "2.9.0";

/// Environment variables for building with `backends` (comma-separated) and for running what was
/// built.
pub fn environment(backends: &str) -> Result<Vec<(&'static str, OsString)>> {
    let mut variables = Vec::new();
    for backend in backends.split(',') {
        match backend {
            "flex" | "cuda" | "remote" => (),
            "wgpu" => find_driver()?,
            "tch" => variables = find_libtorch()?,
            other => {
                bail!(
                    "--backend {other}: expected flex, wgpu, tch or cuda, or several with commas; with \
                     remote beside them, devices of other machines can be used"
                )
            }
        }
    }
    Ok(variables)
}

fn find_libtorch() -> Result<Vec<(&'static str, OsString)>> {
    if let Some(root) = env::var_os("LIBTORCH") {
        let library = Path::new(&root).join("lib");
        if !library.is_dir() {
            bail!(
                "LIBTORCH={}: it has no folder lib; unpack LibTorch {TORCH} there",
                root.display()
            );
        }
        return Ok(vec![library_path(&library)?]);
    }
    let python = match (cfg!(windows), env::var_os("VIRTUAL_ENV")) {
        (true, _) => "python.exe",
        (false, Some(_)) => "python",
        (false, None) => "python3",
    };
    let ask = "import os, torch; print(torch.__version__); print(os.path.dirname(torch.__file__))";
    let advice = format!(
        "the backend tch needs LibTorch {TORCH}: install it with `{python} -m pip install \
         torch=={TORCH}` (in a virtual environment that is active), or unpack LibTorch {TORCH} and \
         set LIBTORCH to its folder"
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
    if version.split('+').next() != Some(TORCH) {
        bail!("{python} has torch {version}; {advice}");
    }
    let library = PathBuf::from(folder).join("lib");
    let use_python = ("LIBTORCH_USE_PYTORCH", OsString::from("1"));
    Ok(vec![use_python, library_path(&library)?])
}

/// The variable by which the system finds libraries, with `folder` in front.
fn library_path(folder: &Path) -> Result<(&'static str, OsString)> {
    let name = match () {
        () if cfg!(windows) => "PATH",
        () if cfg!(target_os = "macos") => "DYLD_LIBRARY_PATH",
        () => "LD_LIBRARY_PATH",
    };
    let before = env::var_os(name).unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(env::split_paths(&before));
    Ok((name, env::join_paths(folders)?))
}

fn find_driver() -> Result<()> {
    if vulkan::has_driver() {
        return Ok(());
    }
    bail!(
        "the backend wgpu needs a Vulkan driver, and none is installed: install that of your GPU, or \
         Mesa's, which has one for the CPU, too (`apt-get install mesa-vulkan-drivers`)"
    )
}
