//! Image folders: one folder a class, below `train/` and `test/`, on disk or in an archive.

use crate::dataset::{Content, StoredImage, round_robin};
use crate::decode::{decode, dimensions, file_dimensions};
use crate::progress::{Meter, Unit};
use crate::tree::{Entry, EntryContent, Tree, listing};
use crate::{DataError, ImageDataset, Progress, Splits};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Images up to this side are decoded when the dataset is loaded, and kept as pixels.
const DECODED_SIDE: u32 = 64;

/// How the test images of a folder without a test split are chosen.
#[derive(Clone, Copy)]
pub(crate) struct HoldOut {
    pub fraction: f64,
    pub seed: u64,
}

/// Reads `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone, with or without one
/// enclosing folder. Without test images, some are held out.
///
/// The classes take turns in the order of the images, so that the first `n` images show all.
pub(crate) fn load(tree: Tree, hold_out: HoldOut, progress: Progress) -> Result<Splits, DataError> {
    let layout = Layout::find(&tree)?;
    let class_names: Vec<String> = layout.train.keys().cloned().collect();
    if let [class] = &class_names[..] {
        return Err(DataError::OneClass {
            path: tree.root.clone(),
            class: class.clone(),
        });
    }
    if let Some(class) = layout
        .test
        .keys()
        .find(|class| !class_names.contains(class))
    {
        return Err(DataError::UnknownTestClass {
            path: tree.root.clone(),
            class: class.clone(),
            known: listing(&class_names, "none"),
        });
    }

    let total: usize = layout.images().count();
    let meter = Meter::new(progress, "reading images", Unit::Images, Some(total as u64));
    let train = layout.read(&tree, &layout.train, &class_names, &meter)?;
    let test = layout.read(&tree, &layout.test, &class_names, &meter)?;
    let train = ImageDataset::new(class_names.clone(), train);
    if test.is_empty() {
        let count = (train.len() as f64 * hold_out.fraction).round() as usize;
        let (train, test) = train.hold_out(count.clamp(1, train.len() - 1), hold_out.seed);
        return Ok(Splits { train, test });
    }
    Ok(Splits {
        train,
        test: ImageDataset::new(class_names, test),
    })
}

/// Class name to the places of its images among the tree's entries.
type Classes = BTreeMap<String, Vec<usize>>;

struct Layout {
    /// Number of enclosing folders that do not belong to an image's name.
    depth: usize,
    train: Classes,
    test: Classes,
}

impl Layout {
    fn find(tree: &Tree) -> Result<Self, DataError> {
        let depth = enclosing_folders(tree);
        let layout = if has_folder(tree, depth, "train") {
            for name in folders_at(tree, depth) {
                if name != "train" && name != "test" {
                    tracing::warn!(
                        "ignored {}: images are read from train and test only",
                        tree.describe(&[name])
                    );
                }
            }
            Self {
                depth,
                train: classes(tree, depth, Some("train"))?,
                test: classes(tree, depth, Some("test"))?,
            }
        } else {
            Self {
                depth,
                train: classes(tree, depth, None)?,
                test: Classes::new(),
            }
        };
        if layout.train.is_empty() {
            return Err(DataError::NoImages {
                path: tree.root.clone(),
                found: tree.sample(),
            });
        }
        Ok(layout)
    }

    fn images(&self) -> impl Iterator<Item = &usize> {
        self.train.values().chain(self.test.values()).flatten()
    }

    fn read(
        &self,
        tree: &Tree,
        classes: &Classes,
        class_names: &[String],
        meter: &Meter,
    ) -> Result<Vec<StoredImage>, DataError> {
        let labelled: Vec<Vec<(usize, usize)>> = class_names
            .iter()
            .enumerate()
            .filter_map(|(label, class)| Some((label, classes.get(class)?)))
            .map(|(label, images)| images.iter().map(|&image| (image, label)).collect())
            .collect();
        round_robin(labelled.iter().map(Vec::as_slice))
            .into_par_iter()
            .map(|(image, label)| {
                let entry = &tree.entries[image];
                let content = content(tree, entry)?;
                meter.add(1);
                Ok(StoredImage {
                    name: entry.parts[self.depth..].join("/"),
                    label,
                    content,
                })
            })
            .collect()
    }
}

/// Checks an image's header, and decodes it if it is small.
fn content(tree: &Tree, entry: &Entry) -> Result<Content, DataError> {
    let name = tree.describe(&entry.parts);
    let small = |(width, height): (u32, u32)| width.max(height) <= DECODED_SIDE;
    match &entry.content {
        EntryContent::File(path) if small(file_dimensions(path, &name)?) => {
            Ok(Content::Decoded(decode(&tree.read(entry)?, &name)?))
        }
        EntryContent::File(path) => Ok(Content::File(path.clone())),
        _ => {
            let bytes = tree.read(entry)?;
            Ok(if small(dimensions(&bytes, &name)?) {
                Content::Decoded(decode(&bytes, &name)?)
            } else {
                Content::Encoded(bytes.into_owned())
            })
        }
    }
}

/// 1 if everything stands in one folder that holds folders itself, such as `cifar10/train/...`.
fn enclosing_folders(tree: &Tree) -> usize {
    let mut top: Vec<_> = tree.entries.iter().map(|entry| &entry.parts[0]).collect();
    top.dedup();
    let nested = !folders_at(tree, 1).is_empty();
    usize::from(top.len() == 1 && nested && !has_folder(tree, 0, "train"))
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

fn has_folder(tree: &Tree, depth: usize, name: &str) -> bool {
    folders_at(tree, depth).iter().any(|folder| folder == name)
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
            return Err(DataError::EmptyClass {
                folder: tree.describe(&above),
                found: listing(found, "no file"),
            });
        }
        let skipped: Vec<_> = found.iter().filter(|name| is_foreign_image(name)).collect();
        if !skipped.is_empty() {
            tracing::warn!(
                "skipped {} images of class {class} that are neither PNG nor JPEG: {}",
                skipped.len(),
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
    const FOREIGN: [&str; 8] = ["webp", "gif", "bmp", "tif", "tiff", "heic", "avif", "ppm"];
    name.rsplit_once('.')
        .is_some_and(|(_, extension)| FOREIGN.contains(&extension.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests;
