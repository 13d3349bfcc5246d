//! Image folders: one folder a class, below `train/`, `val/` and `test/` or alone, on disk or in an archive.

mod content;

use crate::bad_images::{ReadImage, sorted_out};
use crate::dataset::{StoredImage, round_robin};
use crate::printable::printable_text;
use crate::progress::{Meter, Unit};
use crate::tree::{Tree, listing};
use crate::{DataError, FolderError, ImageDataset, LoadOptions, OnBad, Splits};
use rayon::prelude::*;
use std::collections::BTreeMap;

pub(crate) use content::content;

/// How the test images of a folder without a test split are chosen.
#[derive(Clone, Copy)]
pub(crate) struct HoldOut {
    pub fraction: f64,
    pub seed: u64,
}

impl HoldOut {
    /// What is held out where nothing is said.
    pub const USUAL: Self = Self {
        fraction: 0.1,
        seed: 0,
    };
}

/// Reads `train/<class>/*`, and where there are such `val/<class>/*` and `test/<class>/*`; or `<class>/*` alone; with or
/// without one enclosing folder. Where there is no test split, the validation split is it; without either, test images
/// are held out.
///
/// The classes take turns in the order of the images, so that the first `n` images show all.
pub(crate) fn load(
    tree: Tree,
    hold_out: HoldOut,
    options: LoadOptions,
) -> Result<Splits, DataError> {
    let layout = Layout::find(&tree)?;
    if layout.train.is_empty() {
        return Err(FolderError::NoTraining {
            path: tree.root.clone(),
            found: layout.split_names().join(" and "),
        }
        .into());
    }
    let class_names: Vec<String> = layout.train.keys().cloned().collect();
    let others = layout.val.keys().chain(layout.test.keys());
    if let Some(class) = others
        .into_iter()
        .find(|class| !class_names.contains(class))
    {
        return Err(FolderError::UnknownTestClass {
            path: tree.root.clone(),
            class: class.clone(),
            known: listing(&class_names, "none"),
        }
        .into());
    }
    check_classes(&tree, &class_names)?;

    let total = layout.images().count() as u64;
    let meter = meter(options, total);
    let read =
        |classes: &Classes| layout.read(&tree, classes, &class_names, options.on_bad, &meter);
    let (train, val, test) = (
        read(&layout.train)?,
        read(&layout.val)?,
        read(&layout.test)?,
    );
    let (val, test) = match (val.is_empty(), test.is_empty()) {
        (true, false) => (None, test),
        (false, false) => (Some(val), test),
        (false, true) => (None, val),
        (true, true) => {
            if train.len() < 2 {
                return Err(DataError::OneGoodImage {
                    path: tree.root.clone(),
                    bad: train.bad().len(),
                });
            }
            let count = (train.len() as f64 * hold_out.fraction).round() as usize;
            let (train, test) = train.hold_out(count.clamp(1, train.len() - 1), hold_out.seed);
            return Ok(Splits {
                train,
                val: None,
                test,
            });
        }
    };
    Ok(Splits { train, val, test })
}

/// The images to measure a trained model on, and which they are: those of `test`, else those of `val`, else all.
pub(crate) fn load_to_measure(
    tree: &Tree,
    options: LoadOptions,
) -> Result<(ImageDataset, String), DataError> {
    let layout = Layout::find(tree)?;
    let splits = [&layout.test, &layout.val, &layout.train];
    let Some(classes) = splits.into_iter().find(|classes| !classes.is_empty()) else {
        return Err(no_images(tree));
    };
    let class_names: Vec<String> = classes.keys().cloned().collect();
    let total = classes.values().map(Vec::len).sum::<usize>() as u64;
    let meter = meter(options, total);
    let images = layout.read(tree, classes, &class_names, options.on_bad, &meter)?;
    let from = match layout.split_names().into_iter().next_back() {
        Some(split) => tree.describe(&[split]),
        None => tree.root.display().to_string(),
    };
    Ok((images, from))
}

/// The training images; all where there are no splits.
pub(crate) fn load_to_learn(tree: &Tree, options: LoadOptions) -> Result<ImageDataset, DataError> {
    let layout = Layout::find(tree)?;
    if layout.train.is_empty() {
        return Err(FolderError::NoTraining {
            path: tree.root.clone(),
            found: layout.split_names().join(" and "),
        }
        .into());
    }
    let class_names: Vec<String> = layout.train.keys().cloned().collect();
    let total = layout.train.values().map(Vec::len).sum::<usize>() as u64;
    let meter = meter(options, total);
    layout.read(tree, &layout.train, &class_names, options.on_bad, &meter)
}

pub(crate) fn meter(options: LoadOptions, images: u64) -> Meter {
    let what = match options.on_bad {
        OnBad::Fail => "reading images",
        OnBad::Skip => "checking images",
    };
    Meter::new(options.progress, what, Unit::Images, Some(images))
}

fn check_classes(tree: &Tree, class_names: &[String]) -> Result<(), DataError> {
    match class_names {
        [class] => Err(FolderError::OneClass {
            path: tree.root.clone(),
            class: class.clone(),
        }
        .into()),
        _ => Ok(()),
    }
}

fn no_images(tree: &Tree) -> DataError {
    DataError::NoImages {
        path: tree.root.clone(),
        found: tree.sample(),
    }
}

/// Class name to the places of its images among the tree's entries.
type Classes = BTreeMap<String, Vec<usize>>;

/// The name of the folder with training images, as those below in any case.
const TRAIN: &str = "train";
/// Names of folders with images to choose by.
const VAL: [&str; 3] = ["val", "valid", "validation"];
/// The name of the folder with images to judge by.
const TEST: &str = "test";

/// Has a folder the name of a split?
fn is_called(folder: &str, split: &str) -> bool {
    folder.eq_ignore_ascii_case(split)
}

struct Layout {
    /// Number of enclosing folders that do not belong to an image's name.
    depth: usize,
    /// Of images that are in no split: all.
    train: Classes,
    val: Classes,
    test: Classes,
    /// The folders of the splits, in this order.
    splits: Vec<String>,
}

impl Layout {
    fn find(tree: &Tree) -> Result<Self, DataError> {
        let depth = enclosing_folders(tree);
        let folders = folders_at(tree, depth);
        let named = |split: &'static str, names: &[&str]| -> Result<Vec<&String>, DataError> {
            let named = names
                .iter()
                .flat_map(|name| folders.iter().filter(move |folder| is_called(folder, name)));
            let named: Vec<&String> = named.collect();
            match named[..] {
                [first, second, ..] => Err(FolderError::TwoSplits {
                    path: tree.root.clone(),
                    split,
                    first: first.clone(),
                    second: second.clone(),
                }
                .into()),
                _ => Ok(named),
            }
        };
        let (train, val, test) = (
            named("training", &[TRAIN])?,
            named("validation", &VAL)?,
            named("test", &[TEST])?,
        );
        let read = |split: &[&String]| match split.first() {
            Some(split) => classes(tree, depth, Some(split)),
            None => Ok(Classes::new()),
        };
        let splits: Vec<String> = [&train[..], &val[..], &test[..]]
            .concat()
            .into_iter()
            .cloned()
            .collect();
        let layout = if splits.is_empty() {
            Self {
                depth,
                train: classes(tree, depth, None)?,
                val: Classes::new(),
                test: Classes::new(),
                splits,
            }
        } else {
            for name in folders.iter().filter(|name| !splits.contains(name)) {
                tracing::warn!(
                    "ignored {}: images are read from {} only",
                    printable_text(&tree.describe(std::slice::from_ref(name))),
                    splits.join(", ")
                );
            }
            Self {
                depth,
                train: read(&train)?,
                val: read(&val)?,
                test: read(&test)?,
                splits,
            }
        };
        if layout.images().next().is_none() {
            return Err(no_images(tree));
        }
        Ok(layout)
    }

    /// The splits' folders, of training images first.
    fn split_names(&self) -> Vec<String> {
        self.splits.clone()
    }

    fn images(&self) -> impl Iterator<Item = &usize> {
        let splits = [&self.train, &self.val, &self.test];
        splits.into_iter().flat_map(Classes::values).flatten()
    }

    fn read(
        &self,
        tree: &Tree,
        classes: &Classes,
        class_names: &[String],
        on_bad: OnBad,
        meter: &Meter,
    ) -> Result<ImageDataset, DataError> {
        let labelled: Vec<Vec<(usize, usize)>> = class_names
            .iter()
            .enumerate()
            .filter_map(|(label, class)| Some((label, classes.get(class)?)))
            .map(|(label, images)| images.iter().map(|&image| (image, label)).collect())
            .collect();
        let read: Vec<ReadImage> = round_robin(labelled.iter().map(Vec::as_slice))
            .into_par_iter()
            .map(|(image, label)| {
                let entry = &tree.entries[image];
                let name = entry.parts[self.depth..].join("/");
                let content = content(tree, entry, on_bad);
                meter.add(1);
                match content {
                    Ok(content) => Ok(StoredImage {
                        name,
                        label,
                        content,
                    }),
                    Err(error) => Err(Box::new((name, error))),
                }
            })
            .collect();
        let (images, bad) = sorted_out(read, on_bad)?;
        Ok(ImageDataset::new(class_names.to_vec(), images).without(bad))
    }
}

/// 1 if everything stands in one folder that holds folders itself, such as `cifar10/train/...`.
fn enclosing_folders(tree: &Tree) -> usize {
    let mut top: Vec<_> = tree.entries.iter().map(|entry| &entry.parts[0]).collect();
    top.dedup();
    let nested = !folders_at(tree, 1).is_empty();
    let mut splits = [TRAIN, TEST].into_iter().chain(VAL);
    let folders = folders_at(tree, 0);
    let is_split = splits.any(|split| folders.iter().any(|folder| is_called(folder, split)));
    usize::from(top.len() == 1 && nested && !is_split)
}

/// Names of the folders at a depth, sorted; an archive need not list a folder for it to exist.
fn folders_at(tree: &Tree, depth: usize) -> Vec<String> {
    let mut names: Vec<_> = tree
        .entries
        .iter()
        .filter(|entry| entry.parts.len() > depth + usize::from(!entry.is_folder()))
        .map(|entry| entry.parts[depth].clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The class folders of a split (or, without one, at `depth`), each with its images.
fn classes(tree: &Tree, depth: usize, split: Option<&str>) -> Result<Classes, DataError> {
    let class_at = depth + usize::from(split.is_some());
    let mut classes = Classes::new();
    let mut others: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (i, entry) in tree.entries.iter().enumerate() {
        if split.is_some_and(|split| entry.parts.get(depth).is_none_or(|part| part != split))
            || entry.parts.len() <= class_at + usize::from(!entry.is_folder())
        {
            continue;
        }
        if entry.not_unicode.is_some_and(|part| part <= class_at) {
            return Err(FolderError::ClassNotUnicode {
                folder: tree.describe(&entry.parts[..=class_at]),
            }
            .into());
        }
        let class = entry.parts[class_at].clone();
        let images = classes.entry(class.clone()).or_default();
        if entry.is_image() {
            images.push(i);
        } else if !entry.is_folder() {
            others.entry(class).or_default().push(entry.name());
        }
    }
    for (class, images) in &classes {
        let found = others.get(class).map(Vec::as_slice).unwrap_or_default();
        if images.is_empty() {
            let above = classes_folder(tree, class_at, class);
            return Err(FolderError::EmptyClass {
                folder: tree.describe(&above),
                found: listing(found, "no file"),
            }
            .into());
        }
        let skipped: Vec<_> = found.iter().filter(|name| is_foreign_image(name)).collect();
        if !skipped.is_empty() {
            tracing::warn!(
                "skipped {} images of class {} of formats that are not read: {}",
                skipped.len(),
                printable_text(class),
                listing(&skipped, "none"),
            );
        }
    }
    Ok(classes)
}

/// The path of a class folder, for an error.
fn classes_folder(tree: &Tree, class_at: usize, class: &str) -> Vec<String> {
    tree.entries
        .iter()
        .find(|entry| entry.parts.get(class_at).is_some_and(|part| part == class))
        .map(|entry| entry.parts[..=class_at].to_vec())
        .unwrap_or_default()
}

/// Image formats that someone may expect to be read.
fn is_foreign_image(name: &str) -> bool {
    const FOREIGN: [&str; 6] = ["tif", "tiff", "heic", "avif", "jxl", "ppm"];
    name.rsplit_once('.')
        .is_some_and(|(_, extension)| FOREIGN.contains(&extension.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests;
