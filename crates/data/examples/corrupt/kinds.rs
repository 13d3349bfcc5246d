//! The formulas of ImageNet-C and CIFAR-10-C (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
//! Corruptions and Perturbations", 2019, and its published code), with their parameters for five severities.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, blur, resize};
use image::{DynamicImage, ImageReader, Rgb, RgbImage};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Poisson, StandardNormal};

use crate::Failure;
use crate::plasma::plasma;

/// One of the corruptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    GaussianNoise,
    ShotNoise,
    ImpulseNoise,
    SpeckleNoise,
    GaussianBlur,
    DefocusBlur,
    MotionBlur,
    ZoomBlur,
    Fog,
    Brightness,
    Contrast,
    Saturate,
    Pixelate,
    Jpeg,
}

impl Kind {
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::GaussianNoise, "gaussian-noise"),
        (Self::ShotNoise, "shot-noise"),
        (Self::ImpulseNoise, "impulse-noise"),
        (Self::SpeckleNoise, "speckle-noise"),
        (Self::GaussianBlur, "gaussian-blur"),
        (Self::DefocusBlur, "defocus-blur"),
        (Self::MotionBlur, "motion-blur"),
        (Self::ZoomBlur, "zoom-blur"),
        (Self::Fog, "fog"),
        (Self::Brightness, "brightness"),
        (Self::Contrast, "contrast"),
        (Self::Saturate, "saturate"),
        (Self::Pixelate, "pixelate"),
        (Self::Jpeg, "jpeg"),
    ];

    /// The parameters of a severity, 1 to 5: of ImageNet-C, or for pictures of 32 pixels of CIFAR-10-C.
    fn parameters(self, severity: usize, is_small: bool) -> [f32; 2] {
        let one = |large: [f32; 5], small: [f32; 5]| {
            let of = if is_small { small } else { large };
            [of[severity - 1], 0.0]
        };
        let two = |large: [[f32; 2]; 5], small: [[f32; 2]; 5]| {
            let of = if is_small { small } else { large };
            of[severity - 1]
        };
        match self {
            Self::GaussianNoise => one(
                [0.08, 0.12, 0.18, 0.26, 0.38],
                [0.04, 0.06, 0.08, 0.09, 0.1],
            ),
            Self::ShotNoise => one(
                [60.0, 25.0, 12.0, 5.0, 3.0],
                [500.0, 250.0, 100.0, 75.0, 50.0],
            ),
            Self::ImpulseNoise => one(
                [0.03, 0.06, 0.09, 0.17, 0.27],
                [0.01, 0.02, 0.03, 0.05, 0.07],
            ),
            Self::SpeckleNoise => one([0.15, 0.2, 0.35, 0.45, 0.6], [0.06, 0.1, 0.12, 0.16, 0.2]),
            Self::GaussianBlur => one([1.0, 2.0, 3.0, 4.0, 6.0], [0.4, 0.6, 0.7, 0.8, 1.0]),
            // Radius, and how soft the edge of the disk is.
            Self::DefocusBlur => two(
                [[3.0, 0.1], [4.0, 0.5], [6.0, 0.5], [8.0, 0.5], [10.0, 0.5]],
                [[0.3, 0.4], [0.4, 0.5], [0.5, 0.6], [1.0, 0.2], [1.5, 0.1]],
            ),
            // Length and deviation.
            Self::MotionBlur => two(
                [
                    [10.0, 3.0],
                    [15.0, 5.0],
                    [15.0, 8.0],
                    [15.0, 12.0],
                    [20.0, 15.0],
                ],
                [[6.0, 1.0], [6.0, 1.5], [6.0, 2.0], [8.0, 2.0], [9.0, 2.5]],
            ),
            // The largest zoom, and the step to it.
            Self::ZoomBlur => two(
                [
                    [1.11, 0.01],
                    [1.16, 0.01],
                    [1.21, 0.02],
                    [1.26, 0.02],
                    [1.31, 0.03],
                ],
                [
                    [1.06, 0.01],
                    [1.11, 0.01],
                    [1.16, 0.01],
                    [1.21, 0.01],
                    [1.26, 0.01],
                ],
            ),
            // How thick, and how smooth.
            Self::Fog => two(
                [[1.5, 2.0], [2.0, 2.0], [2.5, 1.7], [2.5, 1.5], [3.0, 1.4]],
                [[0.2, 3.0], [0.5, 3.0], [0.75, 2.5], [1.0, 2.0], [1.5, 1.75]],
            ),
            Self::Brightness => one([0.1, 0.2, 0.3, 0.4, 0.5], [0.05, 0.1, 0.15, 0.2, 0.3]),
            Self::Contrast => one([0.4, 0.3, 0.2, 0.1, 0.05], [0.75, 0.5, 0.4, 0.3, 0.15]),
            // A factor, and a shift.
            Self::Saturate => two(
                [[0.3, 0.0], [0.1, 0.0], [2.0, 0.0], [5.0, 0.1], [20.0, 0.2]],
                [[0.3, 0.0], [0.1, 0.0], [1.5, 0.0], [2.0, 0.1], [2.5, 0.2]],
            ),
            Self::Pixelate => one([0.6, 0.5, 0.4, 0.3, 0.25], [0.95, 0.9, 0.85, 0.75, 0.65]),
            Self::Jpeg => one(
                [25.0, 18.0, 15.0, 10.0, 7.0],
                [80.0, 65.0, 58.0, 50.0, 40.0],
            ),
        }
    }

    /// The picture at a severity, 1 to 5.
    pub fn apply(
        self,
        picture: &RgbImage,
        severity: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<RgbImage, Failure> {
        let is_small = picture.width().min(picture.height()) <= 64;
        let [first, second] = self.parameters(severity, is_small);
        Ok(match self {
            Self::GaussianNoise => {
                let noise = Normal::new(0.0, first)?;
                changed(picture, |value, _| value + noise.sample(rng))
            }
            Self::ShotNoise => changed(picture, |value, _| match Poisson::new(value * first) {
                Ok(counts) => counts.sample(rng) / first,
                // Of no light nothing is counted.
                Err(_) => 0.0,
            }),
            Self::ImpulseNoise => changed(picture, |value, _| {
                let drawn: f32 = rng.random();
                if drawn < first / 2.0 {
                    0.0
                } else if drawn < first {
                    1.0
                } else {
                    value
                }
            }),
            Self::SpeckleNoise => changed(picture, |value, _| {
                let drawn: f32 = StandardNormal.sample(rng);
                value + value * first * drawn
            }),
            Self::GaussianBlur => blur(picture, first),
            Self::DefocusBlur => weighed(picture, &disk(first, second)),
            Self::MotionBlur => {
                let angle = rng.random_range(-45.0..45.0f32).to_radians();
                weighed(picture, &line(first, second, angle))
            }
            Self::ZoomBlur => zoomed(picture, first, second),
            Self::Fog => {
                let [width, height] = [picture.width(), picture.height()];
                let fog = plasma(width.max(height) as usize, second, rng);
                let brightest = picture.pixels().flat_map(|pixel| pixel.0).max();
                let brightest = f32::from(brightest.unwrap_or(255)) / 255.0;
                let scale = brightest / (brightest + first);
                each(picture, |x, y, pixel| {
                    let fog = first * fog.at(x as usize, y as usize);
                    pixel.map(|value| (value + fog) * scale)
                })
            }
            Self::Brightness => each(picture, |_, _, pixel| {
                let (hue, saturation, value) = hsv(pixel);
                rgb(hue, saturation, (value + first).min(1.0))
            }),
            Self::Contrast => {
                let means = means(picture);
                changed(picture, |value, channel| {
                    (value - means[channel]) * first + means[channel]
                })
            }
            Self::Saturate => each(picture, |_, _, pixel| {
                let (hue, saturation, value) = hsv(pixel);
                rgb(hue, (saturation * first + second).clamp(0.0, 1.0), value)
            }),
            Self::Pixelate => {
                let side = |side: u32| ((side as f32 * first) as u32).max(1);
                let (width, height) = (picture.width(), picture.height());
                let small = resize(picture, side(width), side(height), FilterType::Triangle);
                resize(&small, width, height, FilterType::Nearest)
            }
            Self::Jpeg => {
                let mut bytes = Vec::new();
                JpegEncoder::new_with_quality(&mut bytes, first as u8).encode_image(picture)?;
                let read = ImageReader::with_format(Cursor::new(bytes), image::ImageFormat::Jpeg);
                DynamicImage::to_rgb8(&read.decode()?)
            }
        })
    }
}

/// Each value from 0 to 1, and its channel, through `change`.
fn changed(picture: &RgbImage, mut change: impl FnMut(f32, usize) -> f32) -> RgbImage {
    each(picture, |_, _, pixel| {
        let mut channel = 0;
        pixel.map(|value| {
            channel += 1;
            change(value, channel - 1)
        })
    })
}

/// Each pixel, its values from 0 to 1, through `change`.
fn each(picture: &RgbImage, mut change: impl FnMut(u32, u32, [f32; 3]) -> [f32; 3]) -> RgbImage {
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let pixel = picture
            .get_pixel(x, y)
            .0
            .map(|value| f32::from(value) / 255.0);
        Rgb(change(x, y, pixel).map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8))
    })
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

/// Weights of pixels that lie so far from the one that they make up; their sum is 1.
type Weights = Vec<([i32; 2], f32)>;

fn normalized(mut weights: Weights) -> Weights {
    let sum: f32 = weights.iter().map(|(_, weight)| weight).sum();
    weights.iter_mut().for_each(|(_, weight)| *weight /= sum);
    weights.retain(|(_, weight)| *weight > 1e-5);
    weights
}

/// A disk whose edge is softened by a Gaussian of that deviation.
fn disk(radius: f32, softness: f32) -> Weights {
    let reach = (radius + 3.0 * softness).ceil() as i32 + 1;
    let is_in = |x: i32, y: i32| (x * x + y * y) as f32 <= radius * radius;
    let soft = (3.0 * softness).ceil() as i32;
    let around = move || (-soft..=soft).flat_map(move |y| (-soft..=soft).map(move |x| (x, y)));
    let weights = (-reach..=reach).flat_map(|y| (-reach..=reach).map(move |x| [x, y]));
    let weights = weights.map(|[x, y]| {
        let near = around().filter(|&(dx, dy)| is_in(x + dx, y + dy));
        let parts = near
            .map(|(dx, dy)| (-((dx * dx + dy * dy) as f32) / (2.0 * softness * softness)).exp());
        ([x, y], parts.sum())
    });
    normalized(weights.collect())
}

/// A line from the pixel on, fading.
fn line(length: f32, deviation: f32, angle: f32) -> Weights {
    let steps = 0..=length as i32;
    let weights = steps.map(|step| {
        let along = step as f32;
        let place = [angle.cos(), angle.sin()].map(|part| (part * along).round() as i32);
        (
            place,
            (-along * along / (2.0 * deviation * deviation)).exp(),
        )
    });
    normalized(weights.collect())
}

/// Each pixel becomes a weighted sum of those around it; at the border the picture is mirrored.
fn weighed(picture: &RgbImage, weights: &Weights) -> RgbImage {
    let [width, height] = [picture.width() as i32, picture.height() as i32];
    let mirrored = |at: i32, side: i32| {
        let period = (2 * side - 2).max(1);
        let at = at.rem_euclid(period);
        if at < side { at } else { period - at }
    };
    each(picture, |x, y, _| {
        let mut sum = [0.0; 3];
        for ([dx, dy], weight) in weights {
            let [x, y] = [
                mirrored(x as i32 + dx, width),
                mirrored(y as i32 + dy, height),
            ];
            let pixel = picture.get_pixel(x as u32, y as u32).0;
            for (sum, value) in sum.iter_mut().zip(pixel) {
                *sum += weight * f32::from(value) / 255.0;
            }
        }
        sum
    })
}

/// The mean of the picture and of its centre at zooms up to `most`.
fn zoomed(picture: &RgbImage, most: f32, step: f32) -> RgbImage {
    let [width, height] = [picture.width(), picture.height()];
    let zooms = (1..).map(|count| 1.0 + step * count as f32);
    let zooms = zooms.take_while(|&zoom| zoom < most - step / 2.0);
    let mut all = vec![picture.clone()];
    all.extend(zooms.map(|zoom| {
        let side = |side: u32| ((side as f32 / zoom).ceil() as u32).clamp(1, side);
        let (wide, high) = (side(width), side(height));
        let (left, top) = ((width - wide) / 2, (height - high) / 2);
        let centre = image::imageops::crop_imm(picture, left, top, wide, high).to_image();
        resize(&centre, width, height, FilterType::Triangle)
    }));
    let count = all.len() as f32;
    each(picture, |x, y, _| {
        let mut sum = [0.0; 3];
        for one in &all {
            for (sum, value) in sum.iter_mut().zip(one.get_pixel(x, y).0) {
                *sum += f32::from(value) / 255.0 / count;
            }
        }
        sum
    })
}

/// Hue from 0 to 6, saturation and value.
fn hsv([red, green, blue]: [f32; 3]) -> (f32, f32, f32) {
    let most = red.max(green).max(blue);
    let range = most - red.min(green).min(blue);
    if range <= 0.0 {
        return (0.0, 0.0, most);
    }
    let hue = if most == red {
        ((green - blue) / range).rem_euclid(6.0)
    } else if most == green {
        (blue - red) / range + 2.0
    } else {
        (red - green) / range + 4.0
    };
    (hue, range / most, most)
}

fn rgb(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|turn: f32| {
        let at = (turn + hue).rem_euclid(6.0);
        value - value * saturation * at.min(4.0 - at).clamp(0.0, 1.0)
    })
}
