//! 8-bit images to normalised floats, for training with random crops and flips.

mod planes;

use crate::seed::{self, Rng};
use crate::{DataError, RgbImage};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

use planes::push_planes;
pub(crate) use planes::{Table, UNCHANGED};

/// Mean and standard deviation that are taken out of each channel, for values from 0 to 1.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Mean of red, green and blue.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
}

impl Normalization {
    /// To -1..1, as Google's ViT models expect.
    pub const HALF: Self = Self {
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    /// The statistics of ImageNet, as DeiT and DINOv2 expect.
    pub const IMAGENET: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };

    /// The normalised value of each byte, by channel.
    pub(crate) fn table(&self) -> Table<f32> {
        std::array::from_fn(|c| {
            std::array::from_fn(|byte| (byte as f32 / 255.0 - self.mean[c]) / self.std[c])
        })
    }
}

impl Default for Normalization {
    fn default() -> Self {
        Self::HALF
    }
}

/// What is changed at random in a training image.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct TrainTransform {
    /// Smallest and largest area of the random resized crop, as a share of the image's.
    pub crop_scale: [f32; 2],
    /// Smallest and largest ratio of width to height of the random resized crop.
    pub crop_ratio: [f32; 2],
    /// Whether half of the images are mirrored left to right.
    pub flip: bool,
    /// Where above 0: instead of the random resized crop, the whole image is shifted at random by
    /// up to this many pixels (of the resized image) along each axis, black moving in: the usual
    /// CIFAR crop.
    pub pad_crop: u32,
}

impl Default for TrainTransform {
    /// The published method's: crops of 5 to 100 percent, flips.
    fn default() -> Self {
        Self {
            crop_scale: [0.05, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: true,
            pad_crop: 0,
        }
    }
}

impl TrainTransform {
    /// Checks that the ranges make sense.
    ///
    /// # Errors
    ///
    /// If `crop_scale` does not lie in 0..=1, excluding 0, if `crop_ratio` is not positive, or if a
    /// range ends before it begins; the error names the field.
    pub fn validate(&self) -> Result<(), DataError> {
        let check = |field, [low, high]: [f32; 2], limit, expected| {
            if 0.0 < low && low <= high && high <= limit {
                return Ok(());
            }
            Err(DataError::Setting {
                field,
                found: format!("[{low}, {high}]"),
                expected,
            })
        };
        check(
            "crop_scale",
            self.crop_scale,
            1.0,
            "[smallest, largest] area with 0 < smallest <= largest <= 1",
        )?;
        check(
            "crop_ratio",
            self.crop_ratio,
            f32::MAX,
            "[smallest, largest] width / height with 0 < smallest <= largest",
        )
    }
}

/// What happens to an image that is not trained on, beside its normalisation. The default resizes the whole image, its
/// proportions not kept, as training images are resized.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct EvalTransform {
    /// Only the centred part of the model's proportions, its longer side this share of the largest one that fits: what
    /// others do by resizing the shorter side to `size / share` and cutting the centre out. The whole image where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<f32>,
    /// Bicubic instead of bilinear resizing.
    pub bicubic: bool,
}

impl EvalTransform {
    /// Where the part of an image is that a model of `size`, height and width, sees: left, top, width and height in the
    /// image's pixels.
    pub fn window(&self, img: &RgbImage, size: [u32; 2]) -> [u32; 4] {
        let Crop {
            left,
            top,
            width,
            height,
        } = self
            .crop
            .map_or(Crop::whole(img), |share| Crop::centred(img, size, share));
        [left, top, width, height]
    }

    /// The part of an image that a model of `size`, height and width, sees.
    ///
    /// # Panics
    ///
    /// If the image's pixels do not fit its size.
    pub fn part(&self, img: &RgbImage, size: [u32; 2]) -> RgbImage {
        if self.crop.is_none() {
            return img.clone();
        }
        let [left, top, width, height] = self.window(img, size);
        let row = |y: u32| {
            let start = (y * img.width + left) as usize * 3;
            &img.pixels[start..start + width as usize * 3]
        };
        RgbImage {
            width,
            height,
            pixels: (top..top + height).flat_map(row).copied().collect(),
        }
    }
}

/// Crops, resizes, flips and normalises a training image into `out`, `[3, height, width]`, `size`
/// being height and width. The result
/// depends on the arguments alone, `seed` included.
///
/// # Panics
///
/// If `out` has another length, or the image's pixels do not fit its size.
pub fn train_image(
    img: &RgbImage,
    size: [u32; 2],
    t: &TrainTransform,
    n: &Normalization,
    seed: u64,
    out: &mut [f32],
) {
    let mut planes = Vec::with_capacity(out.len());
    push_train_image(img, size, t, &n.table(), seed, &mut planes);
    out.copy_from_slice(&planes);
}

/// Crops, resizes (with antialiasing) and normalises an image into `out`, `[3, height, width]`, `size` being height and
/// width. An image of that size already, of which nothing is cropped, is only normalised.
///
/// # Panics
///
/// If `out` has another length, or the image's pixels do not fit its size.
pub fn eval_image(
    img: &RgbImage,
    size: [u32; 2],
    t: &EvalTransform,
    n: &Normalization,
    out: &mut [f32],
) {
    let mut planes = Vec::with_capacity(out.len());
    push_eval_image(img, size, t, &n.table(), &mut planes);
    out.copy_from_slice(&planes);
}

/// As [`train_image`], to the end of `out`, by a table of what becomes of each byte.
pub(crate) fn push_train_image<T: Copy>(
    img: &RgbImage,
    size: [u32; 2],
    t: &TrainTransform,
    table: &Table<T>,
    seed: u64,
    out: &mut Vec<T>,
) {
    let mut rng = seed::rng(&[seed]);
    let (crop, shift) = if t.pad_crop > 0 {
        let most = i64::from(t.pad_crop);
        let shift = [0, 1].map(|_| rng.random_range(-most..=most));
        (Crop::whole(img), shift)
    } else {
        (Crop::random(img, t, &mut rng), [0, 0])
    };
    let flip = t.flip && rng.random_bool(0.5);
    with_resized(img, size, crop, FilterType::Bilinear, |pixels| {
        push_planes(pixels, size, shift, flip, table, out);
    });
}

/// As [`eval_image`], to the end of `out`, by a table of what becomes of each byte.
pub(crate) fn push_eval_image<T: Copy>(
    img: &RgbImage,
    size: [u32; 2],
    t: &EvalTransform,
    table: &Table<T>,
    out: &mut Vec<T>,
) {
    let crop = t
        .crop
        .map_or(Crop::whole(img), |share| Crop::centred(img, size, share));
    let filter = if t.bicubic {
        FilterType::CatmullRom
    } else {
        FilterType::Bilinear
    };
    with_resized(img, size, crop, filter, |pixels| {
        push_planes(pixels, size, [0, 0], false, table, out);
    });
}

/// A part of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Crop {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Crop {
    fn whole(img: &RgbImage) -> Self {
        Self {
            left: 0,
            top: 0,
            width: img.width,
            height: img.height,
        }
    }

    /// The centred part of the target's proportions whose longer side is `share` of the largest that fits.
    fn centred(img: &RgbImage, [height, width]: [u32; 2], share: f32) -> Self {
        let [high, wide] = [height, width].map(|side| side as f32);
        let scale = share * (img.height as f32 / high).min(img.width as f32 / wide);
        let side = |of: f32, most: u32| ((of * scale).round() as u32).clamp(1, most);
        let (width, height) = (side(wide, img.width), side(high, img.height));
        Self {
            left: (img.width - width) / 2,
            top: (img.height - height) / 2,
            width,
            height,
        }
    }

    /// As torchvision's `RandomResizedCrop`: ten tries, then the largest centred part whose ratio
    /// is allowed.
    fn random(img: &RgbImage, t: &TrainTransform, rng: &mut Rng) -> Self {
        let [width, height] = [img.width, img.height].map(|side| side as f32);
        let mut between = |[low, high]: [f32; 2]| low + (high - low) * rng.random::<f32>();
        let sizes = [(); 10].map(|()| {
            let area = width * height * between(t.crop_scale);
            let ratio = between(t.crop_ratio.map(f32::ln)).exp();
            [(area * ratio).sqrt(), (area / ratio).sqrt()].map(|side| side.round() as u32)
        });
        let fits = |[w, h]: &[u32; 2]| (1..=img.width).contains(w) && (1..=img.height).contains(h);
        if let Some([width, height]) = sizes.into_iter().find(fits) {
            return Self {
                left: rng.random_range(0..=img.width - width),
                top: rng.random_range(0..=img.height - height),
                width,
                height,
            };
        }
        let ratio = (width / height).clamp(t.crop_ratio[0], t.crop_ratio[1]);
        let width = ((height * ratio).round() as u32).clamp(1, img.width);
        let height = ((img.width as f32 / ratio).round() as u32).clamp(1, img.height);
        Self {
            left: (img.width - width) / 2,
            top: (img.height - height) / 2,
            width,
            height,
        }
    }
}

/// What each thread keeps between images.
#[derive(Default)]
struct Scratch {
    resizer: Resizer,
    pixels: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Hands the crop's pixels, resized to that height and width, to `use_pixels`.
fn with_resized(
    img: &RgbImage,
    [height, width]: [u32; 2],
    crop: Crop,
    filter: FilterType,
    use_pixels: impl FnOnce(&[u8]),
) {
    assert_eq!(
        img.pixels.len(),
        img.width as usize * img.height as usize * 3,
        "an image of {} x {} RGB pixels",
        img.width,
        img.height
    );
    if crop == Crop::whole(img) && (crop.width, crop.height) == (width, height) {
        return use_pixels(&img.pixels);
    }
    SCRATCH.with_borrow_mut(|Scratch { resizer, pixels }| {
        pixels.resize(height as usize * width as usize * 3, 0);
        let source = ImageRef::new(img.width, img.height, &img.pixels, PixelType::U8x3)
            .expect("the length was checked");
        let mut target = Image::from_slice_u8(width, height, pixels, PixelType::U8x3)
            .expect("the length was set");
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(filter))
            .crop(
                crop.left.into(),
                crop.top.into(),
                crop.width.into(),
                crop.height.into(),
            );
        resizer
            .resize(&source, &mut target, &options)
            .expect("the crop lies within the image");
        use_pixels(pixels);
    });
}

#[cfg(test)]
mod tests;
