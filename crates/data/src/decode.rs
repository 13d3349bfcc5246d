//! The bytes of a picture to pixels, with the header checked before anything is allocated.

use crate::picture_format::{in_words, is_blank, is_cut, is_read};
use crate::regular_file::{self, MAX_PICTURE_BYTES};
use crate::{DataError, RgbImage};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::error::Error;
use std::io::{Cursor, Read};
use std::path::Path;

/// The longest accepted side of an image, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// The largest accepted image, in pixels.
pub const MAX_PIXELS: u64 = 100_000_000;

/// Enough to hold the header of almost any image.
const HEADER: u64 = 64 * 1024;

impl RgbImage {
    /// Decodes a PNG, JPEG, WebP, BMP or GIF (its first frame) in memory, recognised by its content; `name` is what errors
    /// call it.
    ///
    /// # Errors
    ///
    /// If the bytes are no such picture, end before the picture does, or the picture is absurdly large.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        decode(bytes, name)
    }

    /// Reads a file as [`from_bytes`](Self::from_bytes) does. Links are followed; a pipe or a device is refused before it
    /// is opened.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no plain file, has more than [`MAX_PICTURE_BYTES`](crate::MAX_PICTURE_BYTES), or as
    /// `from_bytes`; the error names it.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let bytes = regular_file::read(path, MAX_PICTURE_BYTES)?;
        decode(&bytes, &path.display().to_string())
    }
}

/// Decodes a whole image, upright as its EXIF data asks; `name` is for errors.
pub(crate) fn decode(bytes: &[u8], name: &str) -> Result<RgbImage, DataError> {
    let (mut decoder, format) = decoder(bytes, name)?;
    if is_cut(format, bytes) {
        return Err(DataError::CutImage {
            name: name.into(),
            found: bytes.len(),
        });
    }
    if is_blank(format, bytes) {
        return Err(DataError::NotAnImage {
            name: name.into(),
            reason: "its first frame has no pixels".into(),
        });
    }
    let upright = || {
        let orientation = decoder.orientation()?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        Ok(image.into_rgb8())
    };
    let image = upright().map_err(undecoded(name, format))?;
    Ok(RgbImage {
        width: image.width(),
        height: image.height(),
        pixels: image.into_raw(),
    })
}

/// Width and height from the header of an image in memory.
pub(crate) fn dimensions(bytes: &[u8], name: &str) -> Result<(u32, u32), DataError> {
    decoder(bytes, name).map(|(decoder, _)| decoder.dimensions())
}

/// Width and height from the header of a file, reading no more of it than needed.
pub(crate) fn file_dimensions(path: &Path, name: &str) -> Result<(u32, u32), DataError> {
    let mut start = Vec::new();
    let size = regular_file::open(path)?
        .take(HEADER)
        .read_to_end(&mut start)
        .map_err(DataError::io("read", path))?;
    let found = dimensions(&start, name);
    if found.is_err() && size as u64 == HEADER {
        // A long colour profile or thumbnail may stand before the size.
        let bytes = regular_file::read(path, MAX_PICTURE_BYTES)?;
        return dimensions(&bytes, name);
    }
    found
}

fn decoder<'a>(
    bytes: &'a [u8],
    name: &str,
) -> Result<(impl ImageDecoder + 'a, ImageFormat), DataError> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(DataError::io("read", Path::new(name)))?;
    let format = match reader.format() {
        Some(format) if is_read(format) => format,
        found => {
            let reason = match found {
                Some(format) => format!("it is a {format:?} file"),
                None if bytes.is_empty() => "it is empty".into(),
                None => "its content is no image format".into(),
            };
            return Err(DataError::NotAnImage {
                name: name.into(),
                reason,
            });
        }
    };
    // The size is checked below, with a clearer message than the decoder's.
    reader.limits(Limits::default());
    let decoder = reader.into_decoder().map_err(undecoded(name, format))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(DataError::NotAnImage {
            name: name.into(),
            reason: format!("its header says {width} x {height} pixels"),
        });
    }
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(DataError::ImageTooLarge {
            name: name.into(),
            width,
            height,
        });
    }
    Ok((decoder, format))
}

/// Why a decoder gave no pixels: the bytes are damaged, or of a variant of the format that is not read.
fn undecoded(name: &str, format: ImageFormat) -> impl Fn(ImageError) -> DataError {
    move |error| {
        // What the decoder itself says, without what `image` says around it.
        let said = error
            .source()
            .map_or(error.to_string(), |said| said.to_string());
        let (name, reason) = (name.to_string(), without_structs(&said));
        match error {
            ImageError::Decoding(_) | ImageError::IoError(_) => DataError::DamagedImage {
                name,
                format: in_words(format),
                reason,
            },
            _ => DataError::NotAnImage { name, reason },
        }
    }
}

/// PNG's decoder prints a chunk's type as Rust does, `ChunkType { type: IDAT, critical: true, ... }`: only the name
/// helps.
fn without_structs(said: &str) -> String {
    let mut plain = String::new();
    let mut rest = said;
    while let Some((before, chunk)) = rest.split_once("ChunkType { type: ") {
        let (kind, flags) = chunk.split_once(", critical: ").unwrap_or((chunk, ""));
        plain.extend([before, kind]);
        rest = flags.split_once('}').map_or("", |(_, after)| after);
    }
    plain + rest.trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{encode, jpeg, picture, png};

    #[test]
    fn png_pixels_come_back_exactly() {
        let image = RgbImage {
            width: 2,
            height: 1,
            pixels: vec![1, 2, 3, 250, 251, 252],
        };
        assert_eq!(decode(&png(&image), "a.png").unwrap(), image);
    }

    #[test]
    fn jpeg_pixels_come_back_nearly() {
        let image = RgbImage {
            width: 8,
            height: 4,
            pixels: [200, 100, 50].repeat(32),
        };
        let decoded = decode(&jpeg(&image), "a.jpg").unwrap();
        assert_eq!((decoded.width, decoded.height), (8, 4));
        for (a, b) in decoded.pixels.iter().zip(&image.pixels) {
            assert!(a.abs_diff(*b) < 8);
        }
    }

    #[test]
    fn text_is_no_image_and_the_error_names_the_file() {
        let error = decode(b"hello, I am text", "train/cat/a.jpg").unwrap_err();
        assert!(matches!(error, DataError::NotAnImage { .. }));
        assert!(error.to_string().contains("train/cat/a.jpg"), "{error}");
    }

    #[test]
    fn a_format_that_is_not_read_is_named_as_such() {
        let error = decode(b"II*\0\x08\0\0\0", "a.png").unwrap_err();
        assert!(error.to_string().contains("Tiff"), "{error}");
    }

    #[test]
    fn every_format_is_read_whole_and_refused_cut_whatever_its_name_says() {
        let image = picture(70, 50, 40);
        for format in [
            ImageFormat::Png,
            ImageFormat::Jpeg,
            ImageFormat::WebP,
            ImageFormat::Bmp,
            ImageFormat::Gif,
        ] {
            let bytes = encode(&image, format);
            let decoded = decode(&bytes, "a.png").unwrap();
            assert_eq!((decoded.width, decoded.height), (70, 50), "{format:?}");
            let middle = 3 * (70 * 25 + 35);
            let shade = decoded.pixels[middle].abs_diff(image.pixels[middle]);
            assert!(shade < 30, "{format:?}: {shade}");
            for kept in [1, 3, 5, 8, 9].map(|tenths| bytes.len() * tenths / 10) {
                let error = decode(&bytes[..kept], "a.png").unwrap_err().to_string();
                assert!(error.contains("a.png"), "{format:?}: {error}");
            }
        }
    }

    #[test]
    fn a_cut_jpeg_is_told_to_be_one() {
        let bytes = jpeg(&picture(300, 200, 40));
        let error = decode(&bytes[..bytes.len() / 2], "a.jpg").unwrap_err();
        assert!(matches!(error, DataError::CutImage { .. }), "{error}");
    }

    #[test]
    fn of_an_animation_the_first_frame_is_read() {
        use image::codecs::gif::GifEncoder;
        let frame = |tone| {
            let pixels = image::RgbaImage::from_pixel(8, 8, image::Rgba([tone, tone, tone, 255]));
            image::Frame::new(pixels)
        };
        let mut bytes = Vec::new();
        GifEncoder::new(&mut bytes)
            .encode_frames([frame(200), frame(10)])
            .unwrap();
        let decoded = decode(&bytes, "a.gif").unwrap();
        assert!(decoded.pixels[0].abs_diff(200) < 8);
    }

    #[test]
    fn an_absurd_size_is_refused_from_the_header_alone() {
        let image = RgbImage {
            width: 1,
            height: 1,
            pixels: vec![0; 3],
        };
        let mut bytes = png(&image);
        // The width in PNG's IHDR chunk, and the chunk's checksum for 60000 x 60000.
        bytes[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        let error = dimensions(&bytes, "bomb.png").unwrap_err();
        assert!(
            matches!(error, DataError::ImageTooLarge { width: 60_000, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_png_is_told_in_plain_words() {
        let sound = png(&picture(60, 40, 9));
        for place in [sound.len() / 2, sound.len() - 18] {
            let mut bytes = sound.clone();
            bytes[place] ^= 64;
            let error = decode(&bytes, "a.png").unwrap_err();
            assert!(matches!(error, DataError::DamagedImage { .. }), "{error}");
            let error = error.to_string();
            assert!(error.starts_with("a.png is damaged (PNG: "), "{error}");
            assert!(!error.contains('{') && !error.contains("true"), "{error}");
        }
        let said = "CRC error in ChunkType { type: IDAT, critical: true, private: false } chunk.";
        assert_eq!(without_structs(said), "CRC error in IDAT chunk");
        let said = "ChunkType { type: tEXt, critical: false } and ChunkType { type: IEND";
        assert_eq!(without_structs(said), "tEXt and IEND");
        assert_eq!(without_structs("no struct"), "no struct");
    }

    #[test]
    fn a_picture_without_pixels_is_refused() {
        let mut bytes = encode(&picture(8, 8, 9), ImageFormat::Gif);
        let sound = bytes.clone();
        // The size of a GIF's screen stands behind its signature.
        bytes[6..10].fill(0);
        for result in [
            decode(&bytes, "a.gif").map(|_| ()),
            dimensions(&bytes, "a.gif").map(|_| ()),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("0 x 0 pixels"), "{error}");
        }
        decode(&sound, "a.gif").unwrap();
    }

    #[test]
    fn the_name_of_a_bad_picture_cannot_act_on_the_terminal() {
        let error = decode(b"text", "\u{1b}[31mred.png")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(r"\u{1b}[31mred.png"), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    #[test]
    fn a_header_behind_a_long_comment_is_still_found() {
        let image = RgbImage {
            width: 70,
            height: 90,
            pixels: vec![9; 70 * 90 * 3],
        };
        let plain = jpeg(&image);
        // JPEG comments (FF FE, length, text) between the start marker and the rest.
        let mut bytes = plain[..2].to_vec();
        for _ in 0..2 {
            bytes.extend([0xff, 0xfe, 0xff, 0xff]);
            bytes.extend([b'x'; 0xffff - 2]);
        }
        bytes.extend(&plain[2..]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jpg");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(file_dimensions(&path, "a.jpg").unwrap(), (70, 90));
    }
}
