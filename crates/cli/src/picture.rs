//! What the agents removed, as a picture.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use apt_vit_model::{LayerTrace, VitConfig};
use image::{Rgb, RgbImage, imageops};

/// Longer side of each panel, in pixels, at least.
const PANEL: u32 = 224;
/// Between panels, in pixels.
const GAP: u32 = 8;

/// Writes `<name>.png` into `folder`: the image, and beside it the image after each agent with
/// the removed patches dimmed. Returns where.
pub fn write(
    folder: &Path,
    source: &Path,
    model: &VitConfig,
    trace: &[LayerTrace],
    image: usize,
) -> Result<PathBuf> {
    let original = image::ImageReader::open(source)
        .and_then(image::ImageReader::with_guessed_format)
        .with_context(|| format!("{}: cannot read the picture", source.display()))?
        .decode()
        .with_context(|| format!("{}: cannot read the picture", source.display()))?
        .to_rgb8();
    let [rows, columns] = model.grid();
    let patch = PANEL.div_ceil(rows.max(columns) as u32);
    let [height, width] = [rows, columns].map(|patches| patch * patches as u32);
    let base = imageops::resize(&original, width, height, imageops::FilterType::Triangle);
    let panels = 1 + trace.len() as u32;
    let mut picture = RgbImage::from_pixel(
        panels * width + (panels - 1) * GAP,
        height,
        Rgb([255, 255, 255]),
    );
    imageops::replace(&mut picture, &base, 0, 0);
    for (index, entry) in trace.iter().enumerate() {
        let kept = entry.kept.read();
        let mut panel = base.clone();
        for (x, y, pixel) in panel.enumerate_pixels_mut() {
            let place = (y / patch) as usize * columns + (x / patch) as usize;
            if !kept[image][model.num_prefix_tokens() + place] {
                pixel.0 = pixel
                    .0
                    .map(|value| (u32::from(value) * 15 / 100 + 20) as u8);
            }
        }
        let x = (index as u32 + 1) * (width + GAP);
        imageops::replace(&mut picture, &panel, i64::from(x), 0);
    }
    let name = source.file_stem().unwrap_or_default().to_string_lossy();
    let mut path = folder.join(format!("{name}.png"));
    let mut number = 1;
    while path.exists() {
        number += 1;
        path = folder.join(format!("{name}-{number}.png"));
    }
    picture
        .save(&path)
        .with_context(|| format!("{}: cannot write the picture", path.display()))?;
    Ok(path)
}
