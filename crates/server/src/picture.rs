//! A picture's file to the values that a model sees, with its header checked before anything is allocated.

use std::io::Cursor;

use apt_data::{DataError, RgbImage, eval_image};
use apt_inference::Description;
use image::{ImageFormat, ImageReader};
use serde::Serialize;
use utoipa::ToSchema;

/// What errors call a picture that arrived in a request.
const NAME: &str = "the picture";

/// Why a picture is refused.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It is in no format that is read.
    #[error("the picture is {found}; send a JPEG, PNG or WebP")]
    Format {
        /// What it seems to be.
        found: String,
    },
    /// It claims to be larger than the limit.
    #[error("the picture claims to be {width} x {height} pixels; the limit is {most} in all")]
    TooLarge {
        /// Claimed width.
        width: u32,
        /// Claimed height.
        height: u32,
        /// Pixels.
        most: u64,
    },
    /// It is damaged.
    #[error("{0}")]
    Damaged(DataError),
    /// Its header is damaged.
    #[error("the picture's header is damaged: {0}")]
    Header(image::ImageError),
    /// The decoder failed in a way that it should not.
    #[error("the picture cannot be decoded")]
    Undecodable,
}

/// What a model saw of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Seen {
    /// Width of the picture in pixels, upright as its EXIF data asks.
    pub width: u32,
    /// Height of the picture.
    pub height: u32,
    /// The part that the model saw: left, top, width and height.
    pub window: [u32; 4],
}

/// Checks format and size by the header alone.
///
/// # Errors
///
/// Where it is no JPEG, PNG or WebP, or has more than `most_pixels`.
pub fn check(bytes: &[u8], most_pixels: u64) -> Result<(), PictureError> {
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) => format,
        Ok(other) => {
            let found = format!("a {other:?} file");
            return Err(PictureError::Format { found });
        }
        Err(_) => {
            let found = if bytes.is_empty() {
                "empty"
            } else {
                "in no format that is known"
            };
            let found = found.to_string();
            return Err(PictureError::Format { found });
        }
    };
    let reader = ImageReader::with_format(Cursor::new(bytes), format);
    let (width, height) = reader.into_dimensions().map_err(PictureError::Header)?;
    let most = most_pixels;
    if u64::from(width) * u64::from(height) > most {
        return Err(PictureError::TooLarge {
            width,
            height,
            most,
        });
    }
    Ok(())
}

/// The values that the model of `description` sees, `[3, height, width]`, and what part of the picture that is.
///
/// # Errors
///
/// Where the picture is damaged.
pub fn values(bytes: &[u8], description: &Description) -> Result<(Vec<f32>, Seen), PictureError> {
    let picture = RgbImage::from_bytes(bytes, NAME).map_err(PictureError::Damaged)?;
    let size = description.model.image_size;
    let sides = [size.height as u32, size.width as u32];
    let mut values = vec![0.0; 3 * size.height * size.width];
    let (transform, normalization) = (&description.transform, &description.normalization);
    eval_image(&picture, sides, transform, normalization, &mut values);
    let seen = Seen {
        width: picture.width,
        height: picture.height,
        window: transform.window(&picture, sides),
    };
    Ok((values, seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{png, tiny_model};

    #[test]
    fn a_size_beyond_the_limit_is_refused_by_the_header_alone() {
        let mut bytes = png(40, 30);
        check(&bytes, 1200).unwrap();
        let error = check(&bytes, 1199).unwrap_err();
        assert!(
            matches!(
                error,
                PictureError::TooLarge {
                    width: 40,
                    height: 30,
                    ..
                }
            ),
            "{error}"
        );
        // What comes behind the header does not matter.
        bytes.truncate(60);
        assert!(matches!(
            check(&bytes, 1199),
            Err(PictureError::TooLarge { .. })
        ));
    }

    #[test]
    fn other_formats_and_none_are_told_apart() {
        for (bytes, word) in [
            (&b"GIF89a...."[..], "Gif"),
            (b"", "empty"),
            (b"hello", "no format"),
        ] {
            let error = check(bytes, 1000).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_picture_becomes_what_the_model_sees() {
        let model = tiny_model();
        let size = model.description().model.image_size;
        let (values, seen) = values(&png(40, 30), model.description()).unwrap();
        assert_eq!(values.len(), 3 * size.height * size.width);
        assert_eq!(
            (seen.width, seen.height, seen.window),
            (40, 30, [5, 0, 30, 30])
        );
        assert!(super::values(&png(40, 30)[..50], model.description()).is_err());
    }
}
