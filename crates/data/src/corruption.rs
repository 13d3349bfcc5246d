//! Patches replaced by what does not belong to the image, the truth known: to learn and to measure what a policy filters.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::seed::{self, Rng};
use crate::transform::Table;
use crate::{DataError, ImageDataset};

/// Keeps the seed's streams apart.
const CORRUPTION: u64 = 0xc042;
/// Of images that are measured, and of images that are learned from.
const MEASURED: u64 = 0;
const LEARNED: u64 = 1;

/// What takes the place of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CorruptionKind {
    /// Each value of each pixel at random.
    Noise,
    /// A surface of one colour, its patches side by side.
    Occluder,
    /// The patches of another image of the data set, at the same places.
    Foreign,
}

impl CorruptionKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Noise, Self::Occluder, Self::Foreign];

    /// Its name in configs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Occluder => "occluder",
            Self::Foreign => "foreign",
        }
    }
}

/// Which share of each image's patches is replaced, and by what. Written `noise:0.25`; a share that is not said is 0.25.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchCorruption {
    /// What takes their place.
    pub kind: CorruptionKind,
    /// The share of the patches, above 0 and below 1; at least one is replaced and one stays.
    #[serde(default = "quarter")]
    pub share: f64,
    /// Everything random derives from it.
    #[serde(default)]
    pub seed: u64,
}

fn quarter() -> f64 {
    0.25
}

impl PatchCorruption {
    /// Checks the share.
    ///
    /// # Errors
    ///
    /// Where it is not above 0 and below 1.
    pub fn validate(&self) -> Result<(), DataError> {
        if self.share > 0.0 && self.share < 1.0 {
            return Ok(());
        }
        Err(DataError::Setting {
            field: "share",
            found: self.share.to_string(),
            expected: "a share of the patches, above 0 and below 1",
        })
    }
}

impl fmt::Display for PatchCorruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.share)
    }
}

impl FromStr for PatchCorruption {
    type Err = String;

    fn from_str(said: &str) -> Result<Self, String> {
        let (name, share) = said.split_once(':').unwrap_or((said, "0.25"));
        let kind = CorruptionKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name);
        let expected = || {
            let names = CorruptionKind::ALL.map(CorruptionKind::name).join(", ");
            format!("expected one of {names}, and maybe a share of the patches, as in noise:0.25")
        };
        let corruption = Self {
            kind: kind.ok_or_else(expected)?,
            share: share.parse().map_err(|_| expected())?,
            seed: 0,
        };
        corruption.validate().map_err(|error| error.to_string())?;
        Ok(corruption)
    }
}

/// The corruption of a data set, in the patches of the model that will see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Corrupted {
    pub corruption: PatchCorruption,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
}

/// Images whose patches are drawn in the same way, each by its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream([u64; 2]);

impl Stream {
    /// Of images that are measured: always the same patches of the same image.
    pub const MEASURED: Self = Self([MEASURED, 0]);

    /// Of images that are learned from, in training with this seed: other patches in each pass.
    pub fn learned(seed: u64) -> Self {
        Self([LEARNED, seed])
    }
}

impl Corrupted {
    /// Which patches of image `number` of a stream are replaced, and the generator for all that is drawn after that.
    pub fn draw(&self, stream: Stream, number: u64) -> (Vec<bool>, Rng) {
        let Stream([purpose, seed]) = stream;
        let mut rng = seed::rng(&[self.corruption.seed, CORRUPTION, purpose, seed, number]);
        let patches = self.grid[0] * self.grid[1];
        let count = (self.corruption.share * patches as f64).round() as usize;
        let count = count.max(1).min(patches.saturating_sub(1));
        let mut replaced = vec![false; patches];
        for place in match self.corruption.kind {
            CorruptionKind::Occluder => side_by_side(self.grid, count, &mut rng),
            CorruptionKind::Noise | CorruptionKind::Foreign => {
                let mut places: Vec<usize> = (0..patches).collect();
                places.shuffle(&mut rng);
                places.truncate(count);
                places
            }
        } {
            replaced[place] = true;
        }
        (replaced, rng)
    }

    /// Replaces patches in an image's three planes of `size`, height and width; `table` says what becomes of a byte, and
    /// `other` makes the planes of the image that stands so many places after this one, of `images` in all.
    ///
    /// # Errors
    ///
    /// Where the other image cannot be read.
    pub fn apply<T: Copy>(
        &self,
        planes: &mut [T],
        [height, width]: [usize; 2],
        (replaced, mut rng): (Vec<bool>, Rng),
        table: &Table<T>,
        images: usize,
        other: impl FnOnce(usize) -> Result<Vec<T>, DataError>,
    ) -> Result<(), DataError> {
        let [rows, columns] = self.grid;
        let foreign = match self.corruption.kind {
            CorruptionKind::Foreign => Some(other(rng.random_range(1..images.max(2)))?),
            CorruptionKind::Noise | CorruptionKind::Occluder => None,
        };
        let colour: [u8; 3] = rng.random();
        let places = replaced
            .iter()
            .enumerate()
            .filter(|(_, replaced)| **replaced);
        for (place, _) in places {
            let high = part(place / columns, rows, height);
            let wide = part(place % columns, columns, width);
            for channel in 0..3 {
                for y in high.clone() {
                    let start = (channel * height + y) * width;
                    let pixels = start + wide.start..start + wide.end;
                    match (self.corruption.kind, &foreign) {
                        (_, Some(foreign)) => {
                            planes[pixels.clone()].copy_from_slice(&foreign[pixels]);
                        }
                        (CorruptionKind::Occluder, _) => {
                            planes[pixels].fill(table[channel][usize::from(colour[channel])]);
                        }
                        _ => planes[pixels]
                            .fill_with(|| table[channel][usize::from(rng.random::<u8>())]),
                    }
                }
            }
        }
        Ok(())
    }
}

/// The pixels of part `index` of so many, of a side of `pixels`.
fn part(index: usize, parts: usize, pixels: usize) -> Range<usize> {
    index * pixels / parts..(index + 1) * pixels / parts
}

/// So many patches of a rectangle of about the grid's proportions, anywhere; its last row may be shorter.
fn side_by_side([rows, columns]: [usize; 2], count: usize, rng: &mut Rng) -> Vec<usize> {
    let share = count as f64 / (rows * columns) as f64;
    let wide = ((share.sqrt() * columns as f64).ceil() as usize).clamp(1, columns);
    let wide = wide.max(count.div_ceil(rows));
    let high = count.div_ceil(wide);
    let top = rng.random_range(0..=rows - high);
    let left = rng.random_range(0..=columns - wide);
    let place = |index: usize| (top + index / wide) * columns + left + index % wide;
    (0..count).map(place).collect()
}

impl ImageDataset {
    /// The same images, some patches of each replaced whenever a loader sizes it for a model of `grid`, rows and columns of
    /// patches. [`image`](Self::image) still gives the image as it was.
    pub fn corrupted(&self, corruption: PatchCorruption, grid: [usize; 2]) -> Self {
        let mut images = self.clone();
        images.corrupted = Some(Corrupted { corruption, grid });
        images
    }

    /// The same images as they were.
    pub fn as_they_were(&self) -> Self {
        let mut images = self.clone();
        images.corrupted = None;
        images
    }

    /// What is replaced in the images.
    pub fn corruption(&self) -> Option<PatchCorruption> {
        self.corrupted.map(|corrupted| corrupted.corruption)
    }

    /// Which patches of image `i` an [`EvalLoader`](crate::EvalLoader) replaces, row by row; none where the images are as they
    /// were.
    ///
    /// # Panics
    ///
    /// If `i` is not below [`len`](Self::len).
    pub fn corrupted_patches(&self, i: usize) -> Option<Vec<bool>> {
        let number = self.number(i);
        self.corrupted
            .map(|corrupted| corrupted.draw(Stream::MEASURED, number).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::UNCHANGED;

    fn corrupted(kind: CorruptionKind, share: f64, grid: [usize; 2]) -> Corrupted {
        let corruption = PatchCorruption {
            kind,
            share,
            seed: 3,
        };
        Corrupted { corruption, grid }
    }

    #[test]
    fn as_many_patches_as_said_are_replaced_and_nothing_else_changes() {
        let (size, grid) = ([28, 42], [4, 6]);
        let clean: Vec<u8> = (0..3 * 28 * 42).map(|place| (place % 251) as u8).collect();
        for kind in CorruptionKind::ALL {
            let corrupted = corrupted(kind, 0.25, grid);
            for number in 0..20 {
                let draw = || corrupted.draw(Stream::MEASURED, number);
                let (replaced, _) = draw();
                assert_eq!(replaced.iter().filter(|&&replaced| replaced).count(), 6);
                let mut planes = clean.clone();
                let other = |_| Ok(clean.iter().map(|value| 255 - value).collect());
                corrupted
                    .apply(&mut planes, size, draw(), &UNCHANGED, 9, other)
                    .unwrap();
                for (place, (now, before)) in planes.iter().zip(&clean).enumerate() {
                    let (x, y) = (place % 42, place / 42 % 28);
                    let changed = replaced[y / 7 * 6 + x / 7];
                    if !changed {
                        assert_eq!(now, before, "{kind:?}");
                    } else if kind == CorruptionKind::Foreign {
                        assert_eq!(*now, 255 - before);
                    }
                }
                assert_ne!(planes, clean);
            }
        }
    }

    #[test]
    fn an_occluder_is_one_surface_of_one_colour() {
        for (grid, share) in [
            ([7, 7], 0.25),
            ([2, 9], 0.9),
            ([14, 14], 0.5),
            ([1, 5], 0.4),
        ] {
            let corrupted = corrupted(CorruptionKind::Occluder, share, grid);
            for number in 0..50 {
                let (replaced, _) = corrupted.draw(Stream::MEASURED, number);
                let places: Vec<[usize; 2]> = (0..replaced.len())
                    .filter(|&place| replaced[place])
                    .map(|place| [place / grid[1], place % grid[1]])
                    .collect();
                let sides = [0, 1].map(|axis| {
                    let along = places.iter().map(|place| place[axis]);
                    along.clone().max().unwrap() - along.min().unwrap() + 1
                });
                let whole = sides[0] * sides[1];
                assert!(whole < places.len() + sides[1], "{grid:?}: {places:?}");
            }
        }
    }

    #[test]
    fn an_image_is_always_corrupted_alike_and_each_pass_of_training_otherwise() {
        let corrupted = corrupted(CorruptionKind::Noise, 0.3, [8, 8]);
        let of = |stream, number| corrupted.draw(stream, number).0;
        assert_eq!(of(Stream::MEASURED, 4), of(Stream::MEASURED, 4));
        assert_ne!(of(Stream::MEASURED, 4), of(Stream::MEASURED, 5));
        assert_ne!(of(Stream::MEASURED, 4), of(Stream::learned(0), 4));
        assert_ne!(of(Stream::learned(1), 4), of(Stream::learned(0), 4));
    }

    #[test]
    fn it_is_read_as_it_is_written_and_refused_where_it_makes_no_sense() {
        let read: PatchCorruption = "foreign:0.4".parse().unwrap();
        assert_eq!((read.kind, read.share), (CorruptionKind::Foreign, 0.4));
        assert_eq!(read.to_string().parse(), Ok(read));
        assert_eq!("noise".parse::<PatchCorruption>().unwrap().share, 0.25);
        for (said, expected) in [
            ("rain", "noise, occluder, foreign"),
            ("noise:x", "noise:0.25"),
            ("noise:1", "below 1"),
            ("noise:NaN", "below 1"),
        ] {
            let error = said.parse::<PatchCorruption>().unwrap_err();
            assert!(error.contains(expected), "{said}: {error}");
        }
    }
}
