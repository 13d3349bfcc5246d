//! Pictures without labels, on disk or in an archive, whatever folders they stand in.

use crate::bad_images::sorted_out;
use crate::dataset::{StoredImage, round_robin};
use crate::folder::{content, meter};
use crate::tree::Tree;
use crate::{DataError, ImageDataset, LoadOptions};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Reads every picture below the tree's root. Its folders take turns in the order of the pictures, so that the first `n`
/// show all.
pub(crate) fn load(tree: &Tree, options: LoadOptions) -> Result<ImageDataset, DataError> {
    let mut folders: BTreeMap<&[String], Vec<usize>> = BTreeMap::new();
    for (place, entry) in tree.entries.iter().enumerate() {
        if entry.is_image() {
            let folder = &entry.parts[..entry.parts.len() - 1];
            folders.entry(folder).or_default().push(place);
        }
    }
    let places = round_robin(folders.values().map(Vec::as_slice));
    if places.is_empty() {
        return Err(DataError::NoPictures {
            path: tree.root.clone(),
            found: tree.sample(),
        });
    }
    let meter = meter(options, places.len() as u64);
    let read = places.into_par_iter().map(|place| {
        let entry = &tree.entries[place];
        let name = entry.parts.join("/");
        let content = content(tree, entry, options.on_bad);
        meter.add(1);
        match content {
            Ok(content) => Ok(StoredImage {
                name,
                label: 0,
                content,
            }),
            Err(error) => Err(Box::new((name, error))),
        }
    });
    let (images, bad) = sorted_out(read.collect(), options.on_bad)?;
    let images = ImageDataset::new(vec![String::new()], images);
    Ok(images.without(bad).without_labels())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{picture, png};
    use crate::{DataSource, Progress};
    use std::path::Path;

    fn write(path: &Path, shade: u8) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, png(&picture(4, 4, shade))).unwrap();
    }

    fn names(images: &ImageDataset) -> Vec<String> {
        (0..images.len()).map(|image| images.name(image)).collect()
    }

    #[test]
    fn pictures_of_all_folders_take_turns_and_have_no_labels() {
        let folder = tempfile::tempdir().unwrap();
        for (shade, name) in [
            "b.png",
            "a.png",
            "trip/x.png",
            "trip/y.png",
            "trip/z/deep.png",
        ]
        .into_iter()
        .enumerate()
        {
            write(&folder.path().join(name), shade as u8);
        }
        std::fs::write(folder.path().join("notes.txt"), "none").unwrap();
        let images = DataSource::load_pictures(folder.path(), Progress::Hidden).unwrap();
        let expected = [
            "a.png",
            "trip/x.png",
            "trip/z/deep.png",
            "b.png",
            "trip/y.png",
        ];
        assert_eq!(names(&images), expected);
        assert!(!images.is_labelled() && !images.take(2).is_labelled());
        assert_eq!(images.num_classes(), 1);
    }

    #[test]
    fn a_folder_of_pictures_is_measured_without_labels_and_one_of_classes_with() {
        let folder = tempfile::tempdir().unwrap();
        let (flat, classes) = (folder.path().join("flat"), folder.path().join("classes"));
        for name in ["1.png", "2.png"] {
            write(&flat.join(name), 7);
            write(&classes.join("ant").join(name), 8);
            write(&classes.join("bee").join(name), 9);
        }
        let measured = |path: &Path| {
            let found = DataSource::load_to_measure(path, Default::default(), Progress::Hidden);
            found.unwrap().0
        };
        assert!(!measured(&flat).is_labelled());
        let labelled = measured(&classes);
        assert!(labelled.is_labelled());
        let without = labelled.without_labels();
        assert_eq!((without.is_labelled(), without.num_classes()), (false, 1));
        assert_eq!(without.label(3), 0);
        let named = without.with_classes(&[vec!["ant".into()], vec!["bee".into()]]);
        assert!(named.is_err());
    }

    #[test]
    fn what_is_fitted_sees_training_images_alone_and_no_labels() {
        let folder = tempfile::tempdir().unwrap();
        for (split, name) in [("train", "1.png"), ("train", "2.png"), ("val", "3.png")] {
            for class in ["ant", "bee"] {
                write(&folder.path().join(split).join(class).join(name), 7);
            }
        }
        let learn = |path: &Path| DataSource::load_to_learn(path, Progress::Hidden).unwrap();
        let images = learn(folder.path());
        assert_eq!((images.len(), images.is_labelled()), (4, false));
        assert!(names(&images).iter().all(|name| name.starts_with("train/")));
        assert_eq!(learn(&folder.path().join("train/ant")).len(), 2);
    }

    #[test]
    fn a_folder_without_pictures_says_what_was_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("notes.txt"), "none").unwrap();
        let error = DataSource::load_pictures(folder.path(), Progress::Hidden).unwrap_err();
        assert!(error.to_string().contains("notes.txt"), "{error}");
    }
}
