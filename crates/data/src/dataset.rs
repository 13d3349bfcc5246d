//! A set of labelled images: in memory, on disk, or generated; cheap to clone and to cut.

use crate::corruption::Corrupted;
use crate::decode::decode;
use crate::seed;
use crate::shape_image::ShapeImage;
use crate::tree::listing;
use crate::{BadImage, DataError, RgbImage};
use burn::data::dataset::{Dataset, DatasetError};
use rand::seq::SliceRandom;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// One labelled image of an [`ImageDataset`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageItem {
    /// The decoded image.
    pub image: RgbImage,
    /// Its class, an index into [`ImageDataset::class_names`].
    pub label: usize,
    /// Its place in the dataset.
    pub index: usize,
}

/// Labelled images with class names. Clones and subsets share the images.
#[derive(Clone)]
pub struct ImageDataset {
    images: Arc<Vec<StoredImage>>,
    /// Which of the shared images belong to this set, in order.
    members: Arc<[usize]>,
    classes: Arc<Classes>,
    bad: Arc<[BadImage]>,
    pub(crate) corrupted: Option<Corrupted>,
}

struct Classes {
    names: Vec<String>,
    /// Per label of a stored image: its class here.
    of_labels: Vec<usize>,
    are_known: bool,
}

/// An image as it waits to be used.
pub(crate) struct StoredImage {
    pub name: String,
    pub label: usize,
    pub content: Content,
}

pub(crate) enum Content {
    Decoded(RgbImage),
    Encoded(Vec<u8>),
    File(PathBuf),
    /// A generated image, with its pixels where they are small.
    Shape(ShapeImage, Option<RgbImage>),
}

/// A training set and a test set with the same classes.
#[derive(Clone, Debug)]
pub struct Splits {
    /// The images to learn from.
    pub train: ImageDataset,
    /// The images to choose by, where the source has some for that.
    pub val: Option<ImageDataset>,
    /// The images to judge by.
    pub test: ImageDataset,
}

impl ImageDataset {
    /// A dataset of images in memory, each with its label.
    ///
    /// # Errors
    ///
    /// If a label is not below the number of class names.
    pub fn from_images(
        class_names: Vec<String>,
        images: Vec<(RgbImage, usize)>,
    ) -> Result<Self, DataError> {
        let stored = images
            .into_iter()
            .enumerate()
            .map(|(i, (image, label))| {
                let name = format!("image#{i}");
                if label >= class_names.len() {
                    return Err(DataError::Label {
                        name,
                        found: label,
                        classes: class_names.len(),
                    });
                }
                Ok(StoredImage {
                    name,
                    label,
                    content: Content::Decoded(image),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self::new(class_names, stored))
    }

    pub(crate) fn new(class_names: Vec<String>, items: Vec<StoredImage>) -> Self {
        let classes = Classes {
            of_labels: (0..class_names.len()).collect(),
            names: class_names,
            are_known: true,
        };
        Self {
            members: (0..items.len()).collect(),
            images: Arc::new(items),
            classes: Arc::new(classes),
            bad: Arc::new([]),
            corrupted: None,
        }
    }

    /// The same images, and which ones were left out.
    pub(crate) fn without(self, bad: Vec<BadImage>) -> Self {
        Self {
            bad: bad.into(),
            ..self
        }
    }

    /// The images that were left out when these were loaded, because they cannot be read; a subset has those of the whole
    /// set. Empty unless [`OnBad::Skip`](crate::OnBad::Skip) was asked for.
    pub fn bad(&self) -> &[BadImage] {
        &self.bad
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Names of the classes, in the order of the labels.
    pub fn class_names(&self) -> &[String] {
        &self.classes.names
    }

    /// The same images under the classes of a model, by name: label `i` is the class of which `names[i]` has the name. A
    /// class of the model may have several names.
    ///
    /// # Errors
    ///
    /// Where images are of a class that the model does not have, or of which it has two.
    pub fn with_classes(&self, names: &[Vec<String>]) -> Result<Self, DataError> {
        let mut has_images = vec![false; self.num_classes()];
        for image in 0..self.len() {
            has_images[self.label(image)] = true;
        }
        let find = |name: &String| {
            let mut found = (0..names.len()).filter(|&class| names[class].contains(name));
            found.next().filter(|_| found.next().is_none())
        };
        let own = self.class_names();
        let found: Vec<Option<usize>> = own.iter().map(find).collect();
        let unknown = (0..own.len()).filter(|&class| has_images[class] && found[class].is_none());
        let unknown: Vec<&String> = unknown.map(|class| &own[class]).collect();
        if !unknown.is_empty() {
            let known: Vec<&String> = names.iter().filter_map(|names| names.last()).collect();
            return Err(DataError::OtherClasses {
                unknown: listing(&unknown, "none"),
                known: listing(&known, "none"),
            });
        }
        let of_labels = self.classes.of_labels.iter();
        let of_labels = of_labels.map(|&class| found[class].unwrap_or_default());
        let classes = Classes {
            of_labels: of_labels.collect(),
            names: names
                .iter()
                .map(|names| names.last().cloned().unwrap_or_default())
                .collect(),
            are_known: self.classes.are_known,
        };
        Ok(Self {
            classes: Arc::new(classes),
            ..self.clone()
        })
    }

    /// The same images, as if nobody knew their classes: all are of one.
    pub fn without_labels(&self) -> Self {
        let classes = Classes {
            names: vec![NO_CLASS.into()],
            of_labels: vec![0; self.classes.of_labels.len()],
            are_known: false,
        };
        Self {
            classes: Arc::new(classes),
            ..self.clone()
        }
    }

    /// Does anybody know the images' classes? Where not, labels mean nothing.
    pub fn is_labelled(&self) -> bool {
        self.classes.are_known
    }

    /// Number of classes, also of those without an image in this set.
    pub fn num_classes(&self) -> usize {
        self.classes.names.len()
    }

    /// The class of image `i`.
    ///
    /// # Panics
    ///
    /// Like all accessors here, if `i` is not below [`len`](Self::len).
    pub fn label(&self, i: usize) -> usize {
        self.classes.of_labels[self.stored(i).label]
    }

    /// The pixels of image `i`, decoded or generated where they are not in memory.
    ///
    /// # Errors
    ///
    /// If its file cannot be read or decoded; the error names it.
    pub fn image(&self, i: usize) -> Result<RgbImage, DataError> {
        self.pixels(i).map(Cow::into_owned)
    }

    /// As [`image`](Self::image), without a copy of what is in memory.
    pub(crate) fn pixels(&self, i: usize) -> Result<Cow<'_, RgbImage>, DataError> {
        let stored = self.stored(i);
        Ok(match &stored.content {
            Content::Decoded(image) | Content::Shape(_, Some(image)) => Cow::Borrowed(image),
            Content::Encoded(bytes) => Cow::Owned(decode(bytes, &stored.name)?),
            Content::File(path) => Cow::Owned(RgbImage::open(path)?),
            Content::Shape(shape, None) => Cow::Owned(shape.render()),
        })
    }

    /// Where image `i` comes from: `test/cat/0003.jpg`, `test_batch.bin#7`, `train/shapes#12`.
    pub fn name(&self, i: usize) -> String {
        self.stored(i).name.clone()
    }

    /// For generated shapes: which patches of a division into so many rows and columns show the
    /// figure, row by row. `None` where the truth is unknown.
    pub fn foreground(&self, i: usize, grid: [usize; 2]) -> Option<Vec<bool>> {
        match &self.stored(i).content {
            Content::Shape(shape, _) => Some(shape.foreground(grid)),
            _ => None,
        }
    }

    /// The images at `indices`: item `i` of the subset is item `indices[i]` of this set.
    pub fn subset(&self, indices: &[usize]) -> Self {
        Self {
            members: indices.iter().map(|&i| self.members[i]).collect(),
            ..self.clone()
        }
    }

    /// The first `n` images, or all if there are fewer.
    pub fn take(&self, n: usize) -> Self {
        Self {
            members: self.members[..n.min(self.len())].into(),
            ..self.clone()
        }
    }

    /// Splits off `count` images at random by `seed`: (rest, held out), both in the order of this
    /// set. Each class gives the same number as far as it can, and at most half of its images
    /// unless `count` asks for more; from `count >= len` on, everything is held out.
    pub fn hold_out(&self, count: usize, seed: u64) -> (Self, Self) {
        let mut rng = seed::rng(&[seed, HOLD_OUT]);
        let mut classes = vec![Vec::new(); self.num_classes()];
        for i in 0..self.len() {
            classes[self.label(i)].push(i);
        }
        for class in &mut classes {
            class.shuffle(&mut rng);
        }
        // So that no class always gives the last, odd one.
        classes.shuffle(&mut rng);

        let halves = round_robin(classes.iter().map(|class| &class[..class.len() / 2]));
        let others = round_robin(classes.iter().map(|class| &class[class.len() / 2..]));
        let mut held = vec![false; self.len()];
        for i in halves.into_iter().chain(others).take(count) {
            held[i] = true;
        }
        let (held, rest): (Vec<_>, Vec<_>) = (0..self.len()).partition(|&i| held[i]);
        (self.subset(&rest), self.subset(&held))
    }

    /// The place of image `i` in the set that this one was cut from.
    pub(crate) fn number(&self, i: usize) -> u64 {
        self.members[i] as u64
    }

    fn stored(&self, i: usize) -> &StoredImage {
        &self.images[self.members[i]]
    }
}

/// What the class of images is called whose class nobody knows.
const NO_CLASS: &str = "not labelled";

/// Keeps the seed's streams apart.
const HOLD_OUT: u64 = 0x401d;

/// First items first, then second items, ... of all `lists`.
pub(crate) fn round_robin<'a, T: Copy + 'a>(lists: impl Iterator<Item = &'a [T]>) -> Vec<T> {
    let lists: Vec<_> = lists.collect();
    let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
    (0..longest)
        .flat_map(|k| lists.iter().filter_map(move |list| list.get(k).copied()))
        .collect()
}

impl Dataset<ImageItem> for ImageDataset {
    fn get(&self, index: usize) -> Result<ImageItem, DatasetError> {
        Ok(ImageItem {
            image: self.image(index).map_err(DatasetError::new)?,
            label: self.label(index),
            index,
        })
    }

    fn len(&self) -> usize {
        self.members.len()
    }
}

impl std::fmt::Debug for ImageDataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageDataset")
            .field("len", &self.len())
            .field("class_names", &self.class_names())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
