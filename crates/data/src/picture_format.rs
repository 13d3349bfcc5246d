//! The formats of pictures that are read, and whether a picture's bytes are all there.

use image::ImageFormat;

/// Endings of the names of pictures that are read, in lower case.
pub const PICTURE_EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];

/// Is the format one that is read? Of an animation, the first frame is.
pub(crate) fn is_read(format: ImageFormat) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    matches!(format, Png | Jpeg | WebP | Bmp | Gif)
}

/// What people call a format.
pub(crate) fn in_words(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Gif => "GIF",
        _ => "another format",
    }
}

/// Has the frame that would be read no pixels? Its decoder would give an all-black picture.
pub(crate) fn is_blank(format: ImageFormat, bytes: &[u8]) -> bool {
    let frame = (format == ImageFormat::Gif)
        .then(|| gif_first_frame(bytes))
        .flatten();
    // Left, top, width and height, of two bytes each.
    let size = frame.and_then(|at| bytes.get(at + 5..at + 9));
    size.is_some_and(|size| matches!(size, [0, 0, _, _] | [_, _, 0, 0]))
}

/// Do the bytes end before the picture does? Decoders of PNG and BMP say so themselves; those of the others fill in
/// what is missing.
pub(crate) fn is_cut(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => !jpeg_ends(bytes),
        ImageFormat::WebP => !webp_ends(bytes),
        ImageFormat::Gif => gif_first_frame_end(bytes).is_none(),
        _ => false,
    }
}

/// Walks a JPEG's segments and its compressed data to the marker of its end (ITU T.81, annex B).
fn jpeg_ends(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut at = 0;
    // What stands between two markers is compressed data, where a 0 follows each 0xff, or, in files that are a little
    // wrong, a few bytes of nothing.
    while let Some(found) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|&byte| byte == 0xff))
    {
        at += found + 1;
        match bytes.get(at) {
            Some(&END) => return true,
            // 0xff twice: the second one may begin a marker.
            Some(0xff) => {}
            // Compressed data, a marker of a restart, of the start, or one that has no length either.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            // The length counts its own two bytes. A thumbnail within has an end of its own, which is not this file's.
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some(&[high, low]) => {
                    at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
                }
                _ => return false,
            },
            None => return false,
        }
    }
    false
}

/// A WebP says in its head how long it is.
fn webp_ends(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).and_then(|length| length.try_into().ok());
    length.is_some_and(|length| bytes.len() as u64 >= 8 + u64::from(u32::from_le_bytes(length)))
}

/// Walks a GIF's blocks to the end of its first frame; `None` where it is not there.
fn gif_first_frame_end(bytes: &[u8]) -> Option<usize> {
    let at = gif_first_frame(bytes)?;
    gif_blocks_end(bytes, at + 11 + gif_palette(*bytes.get(at + 9)?))
}

/// Where a GIF's first frame begins; `None` where it is not there.
fn gif_first_frame(bytes: &[u8]) -> Option<usize> {
    const EXTENSION: u8 = 0x21;
    const FRAME: u8 = 0x2c;
    let mut at = 13 + gif_palette(*bytes.get(10)?);
    loop {
        at = match *bytes.get(at)? {
            EXTENSION => gif_blocks_end(bytes, at + 2)?,
            FRAME => return Some(at),
            _ => return None,
        };
    }
}

/// How many bytes the colours take that flags announce.
fn gif_palette(flags: u8) -> usize {
    match flags & 0x80 {
        0 => 0,
        _ => 3 << ((flags & 7) + 1),
    }
}

/// Where blocks of at most 255 bytes end, each behind its length, up to one without any.
fn gif_blocks_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            length => at += 1 + length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{encode, jpeg, picture};

    #[test]
    fn whole_pictures_are_whole_and_cut_ones_are_not() {
        let image = picture(60, 40, 9);
        for format in [ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif] {
            let bytes = encode(&image, format);
            assert!(!is_cut(format, &bytes), "{format:?}");
            for kept in [bytes.len() / 10, bytes.len() / 2, bytes.len() - 2] {
                assert!(is_cut(format, &bytes[..kept]), "{format:?} {kept}");
            }
        }
    }

    #[test]
    fn a_first_frame_without_pixels_is_blank() {
        let mut bytes = encode(&picture(60, 40, 9), ImageFormat::Gif);
        assert!(!is_blank(ImageFormat::Gif, &bytes));
        let frame = gif_first_frame(&bytes).unwrap();
        assert_eq!(bytes[frame + 5..frame + 9], [60, 0, 40, 0]);
        bytes[frame + 7] = 0;
        assert!(is_blank(ImageFormat::Gif, &bytes));
    }

    #[test]
    fn the_end_of_a_thumbnail_is_not_the_end_of_the_picture() {
        let plain = jpeg(&picture(60, 40, 9));
        let mut bytes = plain[..2].to_vec();
        // An application's segment that holds a whole picture.
        bytes.extend([0xff, 0xe1]);
        bytes.extend((plain.len() as u16 + 2).to_be_bytes());
        bytes.extend(&plain);
        bytes.extend(&plain[2..]);
        assert!(!is_cut(ImageFormat::Jpeg, &bytes));
        assert!(is_cut(ImageFormat::Jpeg, &bytes[..bytes.len() - 100]));
    }

    #[test]
    fn bytes_behind_the_end_and_a_tail_of_zeros_are_told_apart() {
        let mut whole = jpeg(&picture(60, 40, 9));
        let length = whole.len();
        whole.extend([0; 50]);
        assert!(!is_cut(ImageFormat::Jpeg, &whole));
        // A download that was interrupted in a file of the final size.
        whole[length / 2..].fill(0);
        assert!(is_cut(ImageFormat::Jpeg, &whole));
    }
}
