//! The image block by block, as a GIF.

use std::path::Path;

use apt_inference::Answer;
use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, DynamicImage, Frame, RgbImage};

use super::colors::colors;
use super::draw::{Panel, draw_panels};
use super::layers::shown;
use super::legend::Legend;
use super::sheet::Sheet;
use crate::ReportError;

/// Blocks that are shown, at most.
const BLOCKS: usize = 16;
/// How long a block is shown, and the first and the last, in milliseconds.
const SHORT: u32 = 600;
const LONG: u32 = 2000;
/// A comment at the end of the file by which this program knows its own: an extension with one block of text.
const MARK: &[u8] = b"\x21\xfe\x06aptvit\0\x3b";

/// The frames, encoded.
pub(super) fn gif(
    image: &RgbImage,
    grid: [usize; 2],
    answer: &Answer,
) -> Result<Vec<u8>, ReportError> {
    let layers = shown(&answer.layers, answer.tokens, BLOCKS);
    let colors = colors(&layers, grid);
    let legend = Legend::new(&layers, &colors, None, Sheet::width(grid, 1));
    let last = layers.len();
    let mut bytes = Vec::new();
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
        encoder
            .set_repeat(Repeat::Infinite)
            .map_err(ReportError::drawing)?;
        for (index, panel) in Panel::all(&layers, &colors).into_iter().enumerate() {
            let frame = draw_panels(image, grid, answer, &[panel], &legend, None)?;
            let time = if index == 0 || index == last {
                LONG
            } else {
                SHORT
            };
            let delay = Delay::from_numer_denom_ms(time, 1);
            let frame = DynamicImage::ImageRgb8(frame).into_rgba8();
            let frame = Frame::from_parts(frame, 0, 0, delay);
            encoder.encode_frame(frame).map_err(ReportError::drawing)?;
        }
    }
    // The mark stands before the trailer.
    bytes.pop();
    bytes.extend(MARK);
    Ok(bytes)
}

/// Is it an animation with the mark?
pub(super) fn is_ours(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"GIF8") && bytes.ends_with(MARK))
}
