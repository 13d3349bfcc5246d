use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Height and width of an image in pixels. A config writes one number for a square, or
/// `[height, width]`; a command line writes `224` or `224x192`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

impl ImageSize {
    /// Pixels that a side can have.
    pub const MAX_SIDE: usize = 4096;

    /// As high as wide.
    pub const fn square(side: usize) -> Self {
        Self {
            height: side,
            width: side,
        }
    }

    /// Pixels.
    pub fn area(self) -> usize {
        self.height * self.width
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.height == self.width {
            write!(f, "{}", self.height)
        } else {
            write!(f, "{}x{}", self.height, self.width)
        }
    }
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        let sides = 1..=Self::MAX_SIDE;
        match (height.trim().parse(), width.trim().parse()) {
            (Ok(height), Ok(width)) if sides.contains(&height) && sides.contains(&width) => {
                Ok(Self { height, width })
            }
            _ => Err(format!(
                "expected pixels, as in 224, or height and width, as in 224x192; each from 1 to {}",
                Self::MAX_SIDE
            )),
        }
    }
}

/// How it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of pixels, or [height, width]"
)]
enum Written {
    Square(usize),
    Sides([usize; 2]),
}

impl From<Written> for ImageSize {
    fn from(written: Written) -> Self {
        match written {
            Written::Square(side) => Self::square(side),
            Written::Sides([height, width]) => Self { height, width },
        }
    }
}

impl From<ImageSize> for Written {
    fn from(size: ImageSize) -> Self {
        if size.height == size.width {
            Self::Square(size.height)
        } else {
            Self::Sides([size.height, size.width])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_a_square() {
        for (text, json, size) in [
            ("224", "224", ImageSize::square(224)),
            (
                "28x42",
                "[28,42]",
                ImageSize {
                    height: 28,
                    width: 42,
                },
            ),
        ] {
            assert_eq!(text.parse(), Ok(size));
            assert_eq!(size.to_string(), text);
            assert_eq!(serde_json::from_str::<ImageSize>(json).unwrap(), size);
            assert_eq!(serde_json::to_string(&size).unwrap(), json);
        }
        for text in [
            "0",
            "x",
            "28x",
            "28x42x3",
            "-1",
            "4097",
            "9223372036854775808",
        ] {
            assert!(text.parse::<ImageSize>().is_err(), "{text}");
        }
    }
}
