//! What a memory holds.

use apt_data::RgbImage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A labelled image as it is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Which image, and which class.
    pub label: Label,
    /// What is compared of it, `[width]`: the model's features (the CLS token after the last norm), whitened.
    pub features: Vec<f32>,
}

/// An entry without its features.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Label {
    /// The picture, by its pixels: the same picture has the same id, wherever it stands. An entry that is added takes the
    /// place of one with the same id, so that a label is corrected by adding the image again.
    pub id: String,
    /// The class that it shows.
    pub class: String,
    /// Where it came from, for people.
    pub source: String,
}

/// An entry that is near an image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbor {
    /// The entry.
    #[serde(flatten)]
    pub label: Label,
    /// The cosine of both images' features.
    pub similarity: f32,
}

/// Which entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those with these ids.
    Ids(Vec<String>),
    /// All of one class.
    Class(String),
    /// All that came from one place.
    Source(String),
}

impl Which {
    /// Is this one of them?
    pub fn includes(&self, label: &Label) -> bool {
        match self {
            Self::Ids(ids) => ids.contains(&label.id),
            Self::Class(class) => label.class == *class,
            Self::Source(source) => label.source == *source,
        }
    }
}

/// The id of a picture: the first 16 hexadecimal digits of its pixels' SHA-256.
pub fn picture_id(image: &RgbImage) -> String {
    let mut hash = Sha256::new();
    hash.update(image.width.to_le_bytes());
    hash.update(image.height.to_le_bytes());
    hash.update(&image.pixels);
    hexadecimal(&hash.finalize()[..8])
}

/// Two digits for each byte.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_pixels_have_the_same_id_and_others_another() {
        let image = |width, value| RgbImage {
            width,
            height: 6 / width,
            pixels: vec![value; 18],
        };
        assert_eq!(picture_id(&image(2, 7)), picture_id(&image(2, 7)));
        assert_ne!(picture_id(&image(2, 7)), picture_id(&image(3, 7)));
        assert_ne!(picture_id(&image(2, 7)), picture_id(&image(2, 8)));
        assert_eq!(picture_id(&image(2, 7)).len(), 16);
    }
}
