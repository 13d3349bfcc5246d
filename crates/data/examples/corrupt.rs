//! Pictures made worse, to see what a policy does on images unlike those it learned on.
//!
//! Noise, blur, contrast and JPEG with the parameters of ImageNet-C (Hendrycks and Dietterich, 2019, and its published code),
//! severities 1 to 5, on the picture whose shorter side is 256 pixels. Severity 0 changes nothing else.
//!
//! `cargo run --release -p apt-data --example corrupt -- PICTURES OUT [COUNT]` writes `OUT/KIND-SEVERITY/CLASS/NAME.png` of COUNT
//! pictures, drawn always alike.

use std::error::Error;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, blur};
use image::{DynamicImage, ImageReader, RgbImage};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;

type Failure = Box<dyn Error + Send + Sync>;

const KINDS: [&str; 4] = ["noise", "blur", "contrast", "jpeg"];

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [pictures, out, count @ ..] = &args[..] else {
        return Err("expected PICTURES OUT [COUNT]".into());
    };
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(pictures)
        .sort_by_file_name()
        .into_iter()
        .filter_map(Result::ok)
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.is_file())
        .collect();
    files.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
    if let [count, ..] = count {
        files.truncate(count.parse()?);
    }
    let corrupt = |(index, path): (usize, &PathBuf)| of_one(index as u64, path, Path::new(out));
    files.par_iter().enumerate().try_for_each(corrupt)
}

/// Writes one picture in all kinds and severities.
fn of_one(index: u64, path: &Path, out: &Path) -> Result<(), Failure> {
    let picture = ImageReader::open(path)?.with_guessed_format()?.decode()?;
    let shorter = f64::from(picture.width().min(picture.height()));
    let side = |side: u32| (f64::from(side) * 256.0 / shorter).round() as u32;
    let (width, height) = (side(picture.width()), side(picture.height()));
    let picture = picture
        .resize_exact(width, height, FilterType::CatmullRom)
        .to_rgb8();
    let class = path.parent().and_then(Path::file_name).unwrap_or_default();
    let name = Path::new(path.file_name().unwrap_or_default()).with_extension("png");
    let write = |folder: &str, picture: &RgbImage| -> Result<(), Failure> {
        let folder = out.join(folder).join(class);
        std::fs::create_dir_all(&folder)?;
        Ok(picture.save(folder.join(&name))?)
    };
    write("clean-0", &picture)?;
    for kind in KINDS {
        for severity in 1..=5 {
            let worse = corrupted(&picture, kind, severity, index)?;
            write(&format!("{kind}-{severity}"), &worse)?;
        }
    }
    Ok(())
}

fn corrupted(
    picture: &RgbImage,
    kind: &str,
    severity: usize,
    seed: u64,
) -> Result<RgbImage, Failure> {
    let of = |parameters: [f32; 5]| parameters[severity - 1];
    Ok(match kind {
        "noise" => {
            let spread = of([0.08, 0.12, 0.18, 0.26, 0.38]);
            let noise = Normal::new(0.0, spread)?;
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            changed(picture, |value, _| value + noise.sample(&mut rng))
        }
        "blur" => blur(picture, of([1.0, 2.0, 3.0, 4.0, 6.0])),
        "contrast" => {
            let left = of([0.4, 0.3, 0.2, 0.1, 0.05]);
            let means = means(picture);
            changed(picture, |value, channel| {
                (value - means[channel]) * left + means[channel]
            })
        }
        _ => {
            let quality = of([25.0, 18.0, 15.0, 10.0, 7.0]) as u8;
            let mut bytes = Vec::new();
            JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(picture)?;
            let read = ImageReader::with_format(Cursor::new(bytes), image::ImageFormat::Jpeg);
            DynamicImage::to_rgb8(&read.decode()?)
        }
    })
}

/// Each value from 0 to 1, and its channel, through `change`.
fn changed(picture: &RgbImage, mut change: impl FnMut(f32, usize) -> f32) -> RgbImage {
    let mut changed = picture.clone();
    for pixel in changed.pixels_mut() {
        for (channel, value) in pixel.0.iter_mut().enumerate() {
            let new = change(f32::from(*value) / 255.0, channel);
            *value = (new.clamp(0.0, 1.0) * 255.0).round() as u8;
        }
    }
    changed
}

/// Of each channel, from 0 to 1.
fn means(picture: &RgbImage) -> [f32; 3] {
    let mut sums = [0.0f64; 3];
    for pixel in picture.pixels() {
        for (sum, &value) in sums.iter_mut().zip(&pixel.0) {
            *sum += f64::from(value) / 255.0;
        }
    }
    let count = f64::from(picture.width() * picture.height());
    sums.map(|sum| (sum / count) as f32)
}
