//! What the agents removed, as a picture.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use apt_inference::LayerAnswer;
use apt_vit_model::VitConfig;
use image::{Rgb, RgbImage, imageops};

/// Longer side of each panel, in pixels, at least.
const PANEL: u32 = 224;
/// Between panels, in pixels.
const GAP: u32 = 8;

/// Writes `<name>.png` into `folder`: the image, and beside it the image after each block of the policy with
/// the removed patches dimmed. `seen` is the part of the image that the model sees. Returns where.
pub fn write(
    folder: &Path,
    source: &Path,
    seen: apt_data::RgbImage,
    model: &VitConfig,
    layers: &[LayerAnswer],
) -> Result<PathBuf> {
    let original = RgbImage::from_raw(seen.width, seen.height, seen.pixels)
        .with_context(|| format!("{}: its pixels do not fit its size", source.display()))?;
    let [rows, columns] = model.grid();
    let patch = PANEL.div_ceil(rows.max(columns) as u32);
    let [height, width] = [rows, columns].map(|patches| patch * patches as u32);
    let base = imageops::resize(&original, width, height, imageops::FilterType::Triangle);
    let panels = 1 + layers.len() as u32;
    let mut picture = RgbImage::from_pixel(
        panels * width + (panels - 1) * GAP,
        height,
        Rgb([255, 255, 255]),
    );
    imageops::replace(&mut picture, &base, 0, 0);
    for (index, layer) in layers.iter().enumerate() {
        let mut panel = base.clone();
        for (x, y, pixel) in panel.enumerate_pixels_mut() {
            let place = (y / patch) as usize * columns + (x / patch) as usize;
            if !layer.kept[place] {
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
