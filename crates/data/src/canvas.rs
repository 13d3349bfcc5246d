//! Paints figures without jagged edges.

use crate::RgbImage;
use crate::seed::Rng;
use rand::RngExt;

/// Samples a pixel along each axis.
const SUPERSAMPLING: u32 = 4;

/// A square image in the making; coordinates are shares of its side.
pub(crate) struct Canvas {
    size: u32,
    pub pixels: Vec<[f32; 3]>,
}

impl Canvas {
    pub fn new(size: u32, colour: [f32; 3]) -> Self {
        Self {
            size,
            pixels: vec![colour; (size * size) as usize],
        }
    }

    /// Paints the area where `inside` holds, which lies within `reach` of `centre`, by the share of
    /// each pixel that it covers.
    pub fn fill(
        &mut self,
        centre: [f32; 2],
        reach: f32,
        colour: [f32; 3],
        inside: impl Fn(f32, f32) -> bool,
    ) {
        let side = self.size as f32;
        let [columns, rows] = centre.map(|c| {
            let start = ((c - reach) * side).floor().max(0.0) as u32;
            let end = ((c + reach) * side).ceil().max(0.0) as u32;
            start..end.min(self.size)
        });
        let sample =
            |pixel: u32, i: u32| (pixel as f32 + (i as f32 + 0.5) / SUPERSAMPLING as f32) / side;
        for y in rows {
            for x in columns.clone() {
                let samples = SUPERSAMPLING * SUPERSAMPLING;
                let covered = (0..samples)
                    .filter(|i| inside(sample(x, i % SUPERSAMPLING), sample(y, i / SUPERSAMPLING)))
                    .count();
                let share = covered as f32 / samples as f32;
                let pixel = &mut self.pixels[(y * self.size + x) as usize];
                for (value, colour) in pixel.iter_mut().zip(colour) {
                    *value += share * (colour - *value);
                }
            }
        }
    }

    /// Adds noise, and rounds to bytes.
    pub fn finish(self, rng: &mut Rng) -> RgbImage {
        let noisy = |value: f32| value + rng.random_range(-0.03..0.03f32);
        RgbImage {
            width: self.size,
            height: self.size,
            pixels: self
                .pixels
                .into_iter()
                .flatten()
                .map(noisy)
                .map(|value| (value * 255.0).round().clamp(0.0, 255.0) as u8)
                .collect(),
        }
    }
}
