//! Pictures made worse, to see what a policy does on images unlike those it learned on, or to learn from them.
//!
//! Fourteen corruptions of ImageNet-C at severities 1 to 5, on the picture whose shorter side is 256 pixels; pictures of up to 64
//! pixels keep their size, and get the parameters of CIFAR-10-C. Severity 0 changes nothing else. Glass blur, elastic transforms,
//! snow, frost and spatter are left out.
//!
//! `cargo run --release -p apt-data --example corrupt -- PICTURES OUT [COUNT [KIND ...]]` writes `OUT/KIND-SEVERITY/CLASS/NAME.png` of
//! COUNT pictures, drawn always alike; of all kinds where none is named.

mod kinds;
mod plasma;

use std::error::Error;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{ImageReader, RgbImage};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use kinds::Kind;

type Failure = Box<dyn Error + Send + Sync>;

/// Pictures of this side and less are CIFAR's.
const SMALL: u32 = 64;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [pictures, out, rest @ ..] = &args[..] else {
        return Err("expected PICTURES OUT [COUNT [KIND ...]]".into());
    };
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(pictures)
        .sort_by_file_name()
        .into_iter()
        .filter_map(Result::ok)
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.is_file())
        .collect();
    files.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
    if let [count, ..] = rest {
        files.truncate(count.parse()?);
    }
    let kinds = chosen(rest.get(1..).unwrap_or_default())?;
    let corrupt =
        |(index, path): (usize, &PathBuf)| of_one(index as u64, path, Path::new(out), &kinds);
    files.par_iter().enumerate().try_for_each(corrupt)
}

/// The kinds of these names; all where there are none.
fn chosen(names: &[String]) -> Result<Vec<(Kind, &'static str)>, Failure> {
    if names.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    let find = |name: &String| {
        let found = Kind::ALL.into_iter().find(|(_, known)| known == name);
        found.ok_or_else(|| {
            let known = Kind::ALL.map(|(_, name)| name).join(", ");
            Failure::from(format!("there is no kind {name}; expected some of {known}"))
        })
    };
    names.iter().map(find).collect()
}

/// Writes one picture in all kinds and severities.
fn of_one(
    index: u64,
    path: &Path,
    out: &Path,
    kinds: &[(Kind, &'static str)],
) -> Result<(), Failure> {
    let picture = ImageReader::open(path)?.with_guessed_format()?.decode()?;
    let shorter = picture.width().min(picture.height());
    let picture = if shorter <= SMALL {
        picture.to_rgb8()
    } else {
        let side = |side: u32| (f64::from(side) * 256.0 / f64::from(shorter)).round() as u32;
        let (width, height) = (side(picture.width()), side(picture.height()));
        let resized = picture.resize_exact(width, height, FilterType::CatmullRom);
        resized.to_rgb8()
    };
    let class = path.parent().and_then(Path::file_name).unwrap_or_default();
    let name = Path::new(path.file_name().unwrap_or_default()).with_extension("png");
    let write = |folder: &str, picture: &RgbImage| -> Result<(), Failure> {
        let folder = out.join(folder).join(class);
        std::fs::create_dir_all(&folder)?;
        Ok(picture.save(folder.join(&name))?)
    };
    write("clean-0", &picture)?;
    for &(kind, name) in kinds {
        for severity in 1..=5 {
            let mut rng = ChaCha8Rng::seed_from_u64(index);
            let worse = kind.apply(&picture, severity, &mut rng)?;
            write(&format!("{name}-{severity}"), &worse)?;
        }
    }
    Ok(())
}
