//! The bundle as one file, small enough to travel.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What can be carried.
const LIMIT: u64 = 60 << 20;

/// Prints what each part takes unpacked, the largest first.
pub fn print_sizes(folder: &Path) -> Result<()> {
    for (name, size) in parts(folder)? {
        println!("{:>8} {name}", mib(size));
    }
    Ok(())
}

/// Packs `folder` into one file beside it.
pub fn pack(folder: &Path) -> Result<()> {
    let name = folder
        .file_name()
        .context("--out: expected a folder's name")?;
    let mut packed = folder.as_os_str().to_owned();
    packed.push(".tar.xz");
    let packed = PathBuf::from(packed);
    let file =
        fs::File::create(&packed).with_context(|| format!("cannot create {}", packed.display()))?;
    let mut tar = Command::new("tar")
        .args(["--create", "--sort=name", "--owner=0", "--group=0"])
        .arg("--directory")
        .arg(folder.parent().unwrap_or(folder))
        .arg(name)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let contents = tar.stdout.take().context("tar has no output")?;
    // The programs share much of their code. A dictionary as large as all of them finds it again.
    let bytes: u64 = parts(folder)?.iter().map(|(_, size)| size).sum();
    let dictionary = (bytes >> 20).clamp(8, 1500) + 1;
    let xz = Command::new("xz")
        .args(["--compress", "--stdout"])
        .arg(format!("--lzma2=preset=9e,dict={dictionary}MiB"))
        .stdin(contents)
        .stdout(file)
        .status()
        .context("cannot run xz; install xz-utils")?;
    if !tar.wait()?.success() || !xz.success() {
        bail!("{} could not be packed", folder.display());
    }
    let size = packed.metadata()?.len();
    println!("{:>8} {}", mib(size), packed.display());
    if size > LIMIT {
        let largest: Vec<String> = parts(folder)?
            .into_iter()
            .take(3)
            .map(|(name, size)| format!("{name} ({})", mib(size)))
            .collect();
        bail!(
            "packed, the bundle has {}; expected {} at most. The largest parts, unpacked: {}. Take fewer \
             images (--images) or backends (--backends) along; the folder is kept",
            mib(size),
            mib(LIMIT),
            largest.join(", ")
        );
    }
    Ok(())
}

/// What each program, each folder and the scripts take, the largest first.
fn parts(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut sizes = BTreeMap::<String, u64>::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in next.read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                let part = part(entry.path().strip_prefix(folder)?);
                *sizes.entry(part).or_default() += entry.metadata()?.len();
            }
        }
    }
    let mut parts: Vec<_> = sizes.into_iter().collect();
    parts.sort_by_key(|(_, size)| Reverse(*size));
    Ok(parts)
}

fn part(file: &Path) -> String {
    match file.iter().next() {
        Some(bin) if bin == "bin" => file.display().to_string(),
        Some(folder) if file.parent() != Some(Path::new("")) => format!("{}/", folder.display()),
        _ => "scripts".to_string(),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_programs_folders_and_scripts() {
        for (file, expected) in [
            ("bin/aptvit", "bin/aptvit"),
            ("golden/apt-small/vit.npz", "golden/"),
            ("data/cifar10.tgz", "data/"),
            ("run.sh", "scripts"),
        ] {
            assert_eq!(part(Path::new(file)), expected);
        }
        assert_eq!(mib(60 << 20), "60.0 MiB");
    }
}
