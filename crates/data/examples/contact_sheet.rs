//! Draws generated images on one sheet, a class a column, each above its foreground patches.
//!
//! `cargo run --release -p apt-data --example contact_sheet OUT.png [SIZE]`

use apt_data::{DataSource, Progress};
use image::{Rgb, RgbImage, imageops};
use std::error::Error;

const ROWS: usize = 6;
/// Patches a side.
const GRID: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments
        .next()
        .ok_or("usage: contact_sheet OUT.png [SIZE]")?;
    let size: u32 = arguments.next().map_or(Ok(32), |size| size.parse())?;
    let shapes = DataSource::Shapes {
        size,
        figure: 0.55,
        train: 1,
        test: 10 * ROWS,
        seed: 0,
    }
    .load(None, Progress::Hidden)?
    .test;

    let zoom = 96u32.div_ceil(size);
    let side = size * zoom;
    let classes = shapes.num_classes();
    let cell = i64::from(side) + 4;
    let mut sheet = RgbImage::from_pixel(
        cell as u32 * classes as u32,
        2 * cell as u32 * ROWS as u32,
        Rgb([255; 3]),
    );
    for i in 0..shapes.len() {
        let image = shapes.image(i)?;
        let image = RgbImage::from_raw(image.width, image.height, image.pixels)
            .ok_or("an image has too few pixels")?;
        let image = imageops::resize(&image, side, side, imageops::FilterType::Nearest);
        let mut masked = image.clone();
        let foreground = shapes
            .foreground(i, [GRID, GRID])
            .ok_or("shapes know their foreground")?;
        for (x, y, pixel) in masked.enumerate_pixels_mut() {
            let patch = |at: u32| at as usize * GRID / side as usize;
            if !foreground[patch(y) * GRID + patch(x)] {
                *pixel = Rgb(pixel.0.map(|value| value / 5));
            }
        }
        let (x, y) = ((i % classes) as i64 * cell, (i / classes) as i64 * 2 * cell);
        imageops::replace(&mut sheet, &image, x, y);
        imageops::replace(&mut sheet, &masked, x, y + cell);
    }
    sheet.save(&out)?;
    println!("{out}: {}", shapes.class_names().join(", "));
    Ok(())
}
