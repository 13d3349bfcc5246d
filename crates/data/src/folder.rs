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
mod tests {
    use super::*;
    use crate::samples::{class_folders, jpeg, picture, png, tar_gz, write_files};
    use std::path::Path;

    const CLASSES: [&str; 3] = ["ant", "bee", "cat"];
    const HELD: HoldOut = HoldOut {
        fraction: 0.25,
        seed: 1,
    };

    fn load_path(path: &Path) -> Result<Splits, DataError> {
        load(Tree::open(path, Progress::Hidden)?, HELD, Progress::Hidden)
    }

    /// Loads the files from a folder and from an archive.
    fn load_both(files: &[(String, Vec<u8>)]) -> [Result<Splits, DataError>; 2] {
        let folder = tempfile::tempdir().unwrap();
        write_files(&folder.path().join("set"), files);
        let archive = folder.path().join("set.tgz");
        std::fs::write(&archive, tar_gz(files)).unwrap();
        [load_path(&folder.path().join("set")), load_path(&archive)]
    }

    fn errors(files: &[(String, Vec<u8>)]) -> [String; 2] {
        load_both(files).map(|loaded| loaded.expect_err("bad files were accepted").to_string())
    }

    fn nested(files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
        let nest = |(name, bytes)| (format!("pets/{name}"), bytes);
        files.into_iter().map(nest).collect()
    }

    #[test]
    fn folder_and_archive_with_and_without_an_enclosing_folder_give_the_same_images() {
        let files = class_folders(&CLASSES, 4, 2);
        let loaded = [load_both(&files), load_both(&nested(files.clone()))];
        for splits in loaded.into_iter().flatten().map(Result::unwrap) {
            assert_eq!(splits.train.class_names(), CLASSES);
            assert_eq!((splits.train.len(), splits.test.len()), (12, 6));
            assert_eq!(splits.test.name(4), "test/bee/001.png");
            assert_eq!(splits.test.label(4), 1);
            assert_eq!(splits.test.image(4).unwrap(), picture(8, 8, 51));
        }
    }

    #[test]
    fn the_first_images_show_every_class() {
        let [splits, _] = load_both(&class_folders(&CLASSES, 4, 1));
        let train = splits.unwrap().train;
        let labels: Vec<_> = (0..3).map(|i| train.label(i)).collect();
        assert_eq!(labels, [0, 1, 2]);
    }

    #[test]
    fn a_missing_test_split_is_held_out_and_disjoint() {
        for splits in load_both(&class_folders(&CLASSES, 4, 0)) {
            let splits = splits.unwrap();
            assert_eq!((splits.train.len(), splits.test.len()), (9, 3));
            let names =
                |set: &ImageDataset| (0..set.len()).map(|i| set.name(i)).collect::<Vec<_>>();
            let train = names(&splits.train);
            assert!(names(&splits.test).iter().all(|name| !train.contains(name)));
        }
    }

    #[test]
    fn class_folders_need_no_train_folder() {
        let files: Vec<_> = class_folders(&CLASSES, 4, 0)
            .into_iter()
            .map(|(name, bytes)| (name.replace("train/", ""), bytes))
            .collect();
        for files in [nested(files.clone()), files] {
            for splits in load_both(&files) {
                let splits = splits.unwrap();
                assert_eq!(splits.train.class_names(), CLASSES);
                assert_eq!(splits.train.len() + splits.test.len(), 12);
            }
        }
    }

    #[test]
    fn large_images_are_decoded_when_asked_for() {
        let large = picture(80, 70, 9);
        let mut files = class_folders(&CLASSES, 2, 1);
        files.push(("test/cat/large.JPEG".into(), jpeg(&large)));
        files.push(("test/cat/large.png".into(), png(&large)));
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), &files);
        let archive = folder.path().join("set.tgz");
        std::fs::write(&archive, tar_gz(&files)).unwrap();
        for path in [folder.path(), &archive] {
            let test = load_path(path).unwrap().test;
            let last = test.len() - 1;
            assert_eq!(test.name(last), "test/cat/large.png");
            assert_eq!(test.image(last).unwrap(), large);
            assert_eq!(test.image(last - 1).unwrap().width, 80);
        }
    }

    #[test]
    fn hidden_and_text_files_are_skipped() {
        let mut files = class_folders(&CLASSES, 2, 1);
        for name in ["train/ant/.x.png", "train/ant/notes.txt", "README.md"] {
            files.push((name.into(), b"text".to_vec()));
        }
        for splits in load_both(&files) {
            assert_eq!(splits.unwrap().train.len(), 6);
        }
    }

    #[test]
    fn a_file_that_is_no_image_is_named() {
        let mut files = class_folders(&CLASSES, 2, 1);
        files.push(("train/bee/broken.jpg".into(), b"no image".to_vec()));
        for error in errors(&files) {
            assert!(error.contains("train/bee/broken.jpg"), "{error}");
        }
    }

    #[test]
    fn a_class_without_images_is_named() {
        let mut files = class_folders(&CLASSES, 2, 1);
        files.push(("train/dog/photo.webp".into(), b"webp".to_vec()));
        for error in errors(&files) {
            assert!(error.contains("train/dog"), "{error}");
            assert!(error.contains("photo.webp"), "{error}");
        }
    }

    #[test]
    fn an_empty_class_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), &class_folders(&CLASSES, 2, 1));
        std::fs::create_dir(folder.path().join("test/bat")).unwrap();
        let error = load_path(folder.path()).unwrap_err().to_string();
        assert!(error.contains("test/bat"), "{error}");
    }

    #[test]
    fn a_test_class_that_training_lacks_is_named() {
        let mut files = class_folders(&CLASSES, 2, 1);
        files.push(("test/wolf/1.png".into(), png(&picture(4, 4, 0))));
        for error in errors(&files) {
            assert!(error.contains("\"wolf\""), "{error}");
            assert!(error.contains("ant, bee, cat"), "{error}");
        }
    }

    #[test]
    fn one_class_is_not_enough() {
        for error in errors(&class_folders(&["ant"], 2, 1)) {
            assert!(error.contains("one class only, \"ant\""), "{error}");
        }
    }

    #[test]
    fn a_folder_without_images_tells_what_it_found() {
        for error in errors(&[("notes.txt".into(), b"text".to_vec())]) {
            assert!(error.contains("found notes.txt"), "{error}");
        }
    }
}
