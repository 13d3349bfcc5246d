//! What is kept of an image file.

use crate::dataset::Content;
use crate::decode::{decode, dimensions, file_dimensions};
use crate::tree::{Entry, EntryContent, Tree};
use crate::{DataError, OnBad};

/// Images up to this side are decoded when the dataset is loaded, and kept as pixels.
const DECODED_SIDE: u32 = 64;

/// Checks an image's header, and decodes it if it is small, or if bad images are to be found now.
pub(crate) fn content(tree: &Tree, entry: &Entry, on_bad: OnBad) -> Result<Content, DataError> {
    let name = tree.describe(&entry.parts);
    let small = |(width, height): (u32, u32)| width.max(height) <= DECODED_SIDE;
    match &entry.content {
        EntryContent::File(path) if small(file_dimensions(path, &name)?) => {
            Ok(Content::Decoded(decode(&tree.read(entry)?, &name)?))
        }
        EntryContent::File(path) => {
            if on_bad == OnBad::Skip {
                decode(&tree.read(entry)?, &name)?;
            }
            Ok(Content::File(path.clone()))
        }
        _ => {
            let bytes = tree.read(entry)?;
            Ok(if small(dimensions(&bytes, &name)?) {
                Content::Decoded(decode(&bytes, &name)?)
            } else {
                if on_bad == OnBad::Skip {
                    decode(&bytes, &name)?;
                }
                Content::Encoded(bytes.into_owned())
            })
        }
    }
}
