//! An image as the page shows it, and the picture of its kept, merged and removed patches.

use apt_inference::{Answer, ClassProbability};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage, imageops};

use super::pass::Passes;
use super::seen::Seen;
use crate::ReportError;
use crate::picture::draw;

/// The longer side at most, in pixels.
const SIDE: u32 = 224;
/// Images up to this longer side are PNG, larger ones JPEG.
const SMALL: u32 = 64;
const QUALITY: u8 = 80;

impl Passes {
    /// The part of an image that the model sees, as a `data:` address.
    ///
    /// # Errors
    ///
    /// Where the image cannot be read again.
    pub fn picture(&self, index: usize) -> Result<String, ReportError> {
        let image = self.seen_part(index)?;
        let [height, width] = self.size();
        let longer = height.max(width);
        let scaled = |side: u32| (side * SIDE.min(longer) / longer).max(1);
        let (width, height) = (scaled(width), scaled(height));
        let filter = imageops::FilterType::CatmullRom;
        let image = imageops::resize(&image, width, height, filter);
        let (raw, color) = (image.as_raw(), ExtendedColorType::Rgb8);
        let mut bytes = Vec::new();
        let (kind, written) = if longer <= SMALL {
            let encoder = PngEncoder::new(&mut bytes);
            ("png", encoder.write_image(raw, width, height, color))
        } else {
            let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
            ("jpeg", encoder.write_image(raw, width, height, color))
        };
        written.map_err(ReportError::drawing)?;
        Ok(format!(
            "data:image/{kind};base64,{}",
            STANDARD.encode(bytes)
        ))
    }

    /// The picture of an image's kept, merged and removed patches.
    ///
    /// # Errors
    ///
    /// Where the image cannot be read again, or the picture cannot be drawn.
    pub fn drawing(&self, seen: &Seen) -> Result<RgbImage, ReportError> {
        let class = self.class_names.get(seen.pruned.class);
        let answer = Answer {
            classes: vec![ClassProbability {
                class: class.cloned().unwrap_or_default(),
                index: seen.pruned.class,
                probability: seen.pruned.probability as f32,
            }],
            features: Vec::new(),
            tokens: self.tokens,
            layers: seen.layers.clone(),
            flops: 0,
            flops_share: seen.flops_share,
        };
        let blocks = self.model.description().model.num_layers;
        draw(&self.seen_part(seen.index)?, self.grid, blocks, &answer)
    }

    /// The part of an image that the model sees, in the image's own pixels.
    fn seen_part(&self, index: usize) -> Result<RgbImage, ReportError> {
        let image = self.dataset.image(index)?;
        let seen = self.model.description().transform.part(&image, self.size());
        RgbImage::from_raw(seen.width, seen.height, seen.pixels)
            .ok_or_else(|| ReportError::drawing("an image does not fit its size"))
    }

    /// Height and width of the model's images.
    fn size(&self) -> [u32; 2] {
        let size = self.model.description().model.image_size;
        [size.height, size.width].map(|side| side as u32)
    }
}
