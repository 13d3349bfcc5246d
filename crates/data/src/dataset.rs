//! A set of labelled images: in memory, on disk, or generated; cheap to clone and to cut.

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
mod tests {
    use super::*;
    use crate::samples::picture;
    use proptest::prelude::*;

    /// One image a label, recognisable by its place.
    fn dataset(labels: &[usize], classes: usize) -> ImageDataset {
        let names = (0..classes).map(|c| format!("class{c}")).collect();
        let images = labels
            .iter()
            .enumerate()
            .map(|(i, &label)| (picture(2, 2, i as u8), label))
            .collect();
        ImageDataset::from_images(names, images).unwrap()
    }

    fn counts(set: &ImageDataset) -> Vec<usize> {
        let mut counts = vec![0; set.num_classes()];
        for i in 0..set.len() {
            counts[set.label(i)] += 1;
        }
        counts
    }

    #[test]
    fn item_i_of_a_subset_is_item_indices_i() {
        let all = dataset(&[0, 1, 0, 1, 0], 2);
        let part = all.subset(&[4, 1, 3]).subset(&[2, 0]);
        assert_eq!(part.len(), 2);
        assert_eq!(part.image(0).unwrap(), all.image(3).unwrap());
        assert_eq!(part.name(1), "image#4");
    }

    #[test]
    fn take_of_too_many_is_all() {
        let all = dataset(&[0, 1, 0], 2);
        assert_eq!((all.take(2).len(), all.take(9).len()), (2, 3));
    }

    #[test]
    fn holding_out_is_class_balanced() {
        let labels: Vec<_> = (0..100).map(|i| i % 10).collect();
        let (rest, held) = dataset(&labels, 10).hold_out(25, 3);
        assert_eq!((rest.len(), held.len()), (75, 25));
        assert!(counts(&held).iter().all(|&count| count == 2 || count == 3));
    }

    #[test]
    fn a_rare_class_keeps_half_of_its_images_while_others_can_give() {
        let mut labels = vec![0; 40];
        labels.extend([1, 1]);
        let (rest, held) = dataset(&labels, 2).hold_out(20, 0);
        assert_eq!(counts(&held), [19, 1]);
        assert_eq!(counts(&rest), [21, 1]);
    }

    #[test]
    fn another_seed_holds_out_other_images() {
        let all = dataset(&[0; 60], 1);
        let names = |seed| {
            let (_, held) = all.hold_out(10, seed);
            (0..10).map(|i| held.name(i)).collect::<Vec<_>>()
        };
        assert_eq!(names(1), names(1));
        assert_ne!(names(1), names(2));
    }

    #[test]
    fn a_label_without_a_class_is_an_error() {
        let error =
            ImageDataset::from_images(vec!["cat".into()], vec![(picture(1, 1, 0), 1)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "image#0 has label 1, expected a label below 1"
        );
    }

    #[test]
    fn classes_are_found_by_name_in_another_order_and_among_more() {
        let all = dataset(&[0, 1, 1], 3);
        let names = |names: &[&str]| -> Vec<Vec<String>> {
            names.iter().map(|name| vec![name.to_string()]).collect()
        };
        let model = names(&["other", "class1", "class0"]);
        let renamed = all.with_classes(&model).unwrap();
        let labels: Vec<usize> = (0..3).map(|i| renamed.label(i)).collect();
        assert_eq!((labels, renamed.num_classes()), (vec![2, 1, 1], 3));
        assert_eq!(renamed.subset(&[2]).label(0), 1);
        let aliases = vec![
            vec!["n01".into(), "class1".into()],
            vec!["class0".into(), "zero".into()],
        ];
        let renamed = all.with_classes(&aliases).unwrap();
        assert_eq!(
            (renamed.label(0), renamed.class_names()[1].as_str()),
            (1, "zero")
        );
        let error = all
            .with_classes(&names(&["class0", "cat"]))
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("class1") && error.contains("cat") && !error.contains("class2"),
            "{error}"
        );
        assert!(
            all.with_classes(&names(&["class0", "class1", "class1"]))
                .is_err()
        );
    }

    #[test]
    fn burn_sees_the_same_items() {
        let all = dataset(&[0, 1], 2);
        let item = Dataset::get(&all, 1).unwrap();
        assert_eq!((item.label, item.index), (1, 1));
        assert_eq!(item.image, all.image(1).unwrap());
        assert_eq!(Dataset::iter(&all).count(), 2);
    }

    proptest! {
        #[test]
        fn every_image_is_either_held_out_or_kept(
            labels in proptest::collection::vec(0usize..5, 0..60), count in 0usize..70, seed: u64,
        ) {
            let all = dataset(&labels, 5);
            let (rest, held) = all.hold_out(count, seed);
            prop_assert_eq!(held.len(), count.min(all.len()));
            let mut members = [&rest.members[..], &held.members[..]].concat();
            members.sort_unstable();
            prop_assert_eq!(members, (0..all.len()).collect::<Vec<_>>());
            prop_assert!(rest.members.is_sorted() && held.members.is_sorted());
        }
    }
}
