//! A mark in a PNG by which this program knows its own pictures.

use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader, RgbImage};

use crate::ReportError;

/// Exif that says that the software was aptvit: one directory with one entry.
const EXIF: &[u8] = b"II\x2a\0\x08\0\0\0\
    \x01\0\
    \x31\x01\x02\0\x07\0\0\0\x1a\0\0\0\
    \0\0\0\0\
    aptvit\0";

/// The picture as PNG, with the mark.
pub(crate) fn png(picture: &RgbImage) -> Result<Vec<u8>, ReportError> {
    let mut png = Vec::new();
    let mut encoder = PngEncoder::new(&mut png);
    encoder
        .set_exif_metadata(EXIF.to_vec())
        .map_err(ReportError::drawing)?;
    let (width, height) = picture.dimensions();
    encoder
        .write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8)
        .map_err(ReportError::drawing)?;
    Ok(png)
}

/// Is it a picture with the mark?
pub(super) fn is_ours(path: &Path) -> bool {
    let exif = || {
        let mut decoder = ImageReader::open(path).ok()?.into_decoder().ok()?;
        decoder.exif_metadata().ok()?
    };
    exif().as_deref() == Some(EXIF)
}
