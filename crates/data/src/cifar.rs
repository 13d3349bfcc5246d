//! CIFAR-10 and CIFAR-100 in their official binary version.
//!
//! A record is one label byte (CIFAR-100: coarse, then fine) and 32 x 32 red, green and blue planes.
//! <https://www.cs.toronto.edu/~kriz/cifar.html>

use crate::dataset::{Content, StoredImage};
use crate::tree::{Entry, Tree};
use crate::{DataError, ImageDataset, RgbImage, Splits};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

const SIDE: u32 = 32;
const PLANE: usize = (SIDE * SIDE) as usize;

/// Which of CIFAR-100's two labels are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CifarLabels {
    /// The 100 classes.
    #[default]
    Fine,
    /// The 20 superclasses.
    Coarse,
}

/// One of the two datasets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cifar {
    Ten,
    Hundred(CifarLabels),
}

/// What the official archive of a dataset looks like.
struct Official {
    archive: &'static str,
    names_file: &'static str,
    train: &'static [&'static str],
    test: &'static [&'static str],
    /// Records a training file.
    train_records: usize,
    classes: usize,
    label_bytes: usize,
    /// Which of the label bytes counts.
    label_at: usize,
}

const TEN: Official = Official {
    archive: "cifar-10-binary.tar.gz",
    names_file: "batches.meta.txt",
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: &["test_batch.bin"],
    train_records: 10_000,
    classes: 10,
    label_bytes: 1,
    label_at: 0,
};

const HUNDRED: Official = Official {
    archive: "cifar-100-binary.tar.gz",
    names_file: "fine_label_names.txt",
    train: &["train.bin"],
    test: &["test.bin"],
    train_records: 50_000,
    classes: 100,
    label_bytes: 2,
    label_at: 1,
};

const HUNDRED_COARSE: Official = Official {
    names_file: "coarse_label_names.txt",
    classes: 20,
    label_at: 0,
    ..HUNDRED
};

const TEST_RECORDS: usize = 10_000;

impl Cifar {
    fn official(self) -> &'static Official {
        match self {
            Self::Ten => &TEN,
            Self::Hundred(CifarLabels::Fine) => &HUNDRED,
            Self::Hundred(CifarLabels::Coarse) => &HUNDRED_COARSE,
        }
    }

    /// The dataset as people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Ten => "CIFAR-10",
            Self::Hundred(_) => "CIFAR-100",
        }
    }

    /// The name of its source in a configuration.
    pub fn source(self) -> &'static str {
        match self {
            Self::Ten => "cifar10",
            Self::Hundred(_) => "cifar100",
        }
    }

    /// The file name of its official archive.
    pub fn archive(self) -> &'static str {
        self.official().archive
    }

    /// The dataset that a tree's files belong to, and the folder in which they stand.
    pub fn find(tree: &Tree) -> Option<(Self, Vec<String>)> {
        tree.entries.iter().find_map(|entry| {
            let name = entry.name();
            let belongs = |official: &Official| {
                name == official.names_file
                    || official.train.contains(&name)
                    || official.test.contains(&name)
            };
            let dataset = if entry.is_folder() {
                return None;
            } else if belongs(&TEN) {
                Self::Ten
            } else if belongs(&HUNDRED) || belongs(&HUNDRED_COARSE) {
                Self::Hundred(CifarLabels::Fine)
            } else {
                return None;
            };
            let folder = &entry.parts[..entry.parts.len() - 1];
            Some((dataset, folder.to_vec()))
        })
    }

    /// Reads the dataset from its files in a tree's folder.
    pub fn load(self, tree: &Tree, folder: &[String]) -> Result<Splits, DataError> {
        let official = self.official();
        let files = Files { tree, folder };
        let names = files.find(official.names_file)?;
        let class_names = class_names(official, &files.tree.read(names)?, files.describe(names))?;
        let split = |files_of_split: &[&'static str], records| -> Result<_, DataError> {
            let mut images = Vec::new();
            for file in files_of_split {
                let entry = files.find(file)?;
                let bytes = files.tree.read(entry)?;
                images.extend(official.records(&bytes, file, &files.describe(entry), records)?);
            }
            Ok(ImageDataset::new(class_names.clone(), images))
        };
        Ok(Splits {
            val: None,
            train: split(official.train, official.train_records)?,
            test: split(official.test, TEST_RECORDS)?,
        })
    }
}

/// The files of one folder of a tree.
struct Files<'a> {
    tree: &'a Tree,
    folder: &'a [String],
}

impl<'a> Files<'a> {
    fn find(&self, file: &'static str) -> Result<&'a Entry, DataError> {
        self.tree
            .entries
            .iter()
            .find(|entry| match entry.parts.split_last() {
                Some((name, folder)) => name == file && folder == self.folder,
                None => false,
            })
            .ok_or_else(|| DataError::MissingFile {
                folder: self.tree.describe(self.folder).into(),
                file,
            })
    }

    fn describe(&self, entry: &Entry) -> String {
        self.tree.describe(&entry.parts)
    }
}

fn class_names(official: &Official, bytes: &[u8], file: String) -> Result<Vec<String>, DataError> {
    let names: Vec<_> = String::from_utf8_lossy(bytes)
        .lines()
        .map(|line| line.trim().to_string())
        .filter(|line| !line.is_empty())
        .collect();
    if names.len() != official.classes {
        return Err(DataError::ClassNames {
            file,
            found: names.len(),
            expected: official.classes,
        });
    }
    Ok(names)
}

impl Official {
    /// The images of a file of `expected` records.
    fn records(
        &self,
        bytes: &[u8],
        file: &str,
        path: &str,
        expected: usize,
    ) -> Result<Vec<StoredImage>, DataError> {
        let record = self.label_bytes + 3 * PLANE;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            return Err(DataError::Truncated {
                file: path.into(),
                found: bytes.len(),
                expected: expected * record,
                record,
            });
        }
        bytes
            .par_chunks_exact(record)
            .enumerate()
            .map(|(i, record)| {
                let (labels, planes) = record.split_at(self.label_bytes);
                let label = usize::from(labels[self.label_at]);
                if label >= self.classes {
                    return Err(DataError::Label {
                        name: format!("{path}, record {i},"),
                        found: label,
                        classes: self.classes,
                    });
                }
                Ok(StoredImage {
                    name: format!("{file}#{i}"),
                    label,
                    content: Content::Decoded(interleave(planes)),
                })
            })
            .collect()
    }
}

fn interleave(planes: &[u8]) -> RgbImage {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    let mut pixels = Vec::with_capacity(3 * PLANE);
    for ((&red, &green), &blue) in red.iter().zip(green).zip(blue) {
        pixels.extend([red, green, blue]);
    }
    RgbImage {
        width: SIDE,
        height: SIDE,
        pixels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Progress;
    use crate::samples::{cifar10, cifar100, tar_gz, write_files};

    fn load(files: &[(String, Vec<u8>)], labels: CifarLabels) -> [Result<Splits, DataError>; 2] {
        let folder = tempfile::tempdir().unwrap();
        write_files(&folder.path().join("set"), files);
        let archive = folder.path().join("set.tar.gz");
        std::fs::write(&archive, tar_gz(files)).unwrap();
        [folder.path().join("set"), archive].map(|path| {
            let tree = Tree::open(&path, Progress::Hidden)?;
            let (found, folder) = Cifar::find(&tree).expect("no CIFAR files were found");
            match found {
                Cifar::Ten => found.load(&tree, &folder),
                Cifar::Hundred(_) => Cifar::Hundred(labels).load(&tree, &folder),
            }
        })
    }

    fn load_ten(files: &[(String, Vec<u8>)]) -> [Result<Splits, DataError>; 2] {
        load(files, CifarLabels::Fine)
    }

    fn file<'a>(files: &'a mut [(String, Vec<u8>)], name: &str) -> &'a mut Vec<u8> {
        let found = files.iter_mut().find(|(path, _)| path.ends_with(name));
        &mut found.expect("no such file").1
    }

    #[test]
    fn cifar10_planes_become_pixels() {
        for splits in load_ten(&cifar10(20)) {
            let splits = splits.unwrap();
            assert_eq!((splits.train.len(), splits.test.len()), (100, 20));
            assert_eq!(splits.train.class_names()[3], "cat");
            assert_eq!(splits.train.name(23), "data_batch_2.bin#3");
            assert_eq!(splits.train.label(23), 3);
            let image = splits.train.image(23).unwrap();
            // Row 1, column 5: red says the batch, green the column, blue the record.
            assert_eq!(image.pixels[3 * (32 + 5)..][..3], [2, 5, 3]);
        }
    }

    #[test]
    fn cifar100_has_fine_and_coarse_labels() {
        let files = cifar100(200, 100);
        for splits in load(&files, CifarLabels::Fine) {
            let test = splits.unwrap().test;
            assert_eq!((test.num_classes(), test.label(57)), (100, 57));
            assert_eq!(test.class_names()[57], "fine57");
        }
        for splits in load(&files, CifarLabels::Coarse) {
            let test = splits.unwrap().test;
            assert_eq!((test.num_classes(), test.label(57)), (20, 11));
            assert_eq!(test.class_names()[11], "coarse11");
        }
    }

    #[test]
    fn a_truncated_file_is_named_with_found_and_expected_size() {
        let mut files = cifar10(4);
        file(&mut files, "data_batch_3.bin").pop();
        for splits in load_ten(&files) {
            let error = splits.unwrap_err().to_string();
            assert!(
                error.contains("data_batch_3.bin has 12291 bytes"),
                "{error}"
            );
            assert!(error.contains("expected 30730000"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut files = cifar10(2);
        files.retain(|(path, _)| !path.ends_with("data_batch_4.bin"));
        for splits in load_ten(&files) {
            let error = splits.unwrap_err().to_string();
            assert!(error.contains("has no data_batch_4.bin"), "{error}");
        }
    }

    #[test]
    fn a_label_beyond_the_classes_is_named() {
        let mut files = cifar10(4);
        file(&mut files, "test_batch.bin")[3073] = 10;
        for splits in load_ten(&files) {
            let error = splits.unwrap_err().to_string();
            assert!(
                error.contains("test_batch.bin, record 1, has label 10"),
                "{error}"
            );
        }
    }

    #[test]
    fn too_few_class_names_are_an_error() {
        let mut files = cifar10(2);
        *file(&mut files, "batches.meta.txt") = b"cat\ndog\n".to_vec();
        for splits in load_ten(&files) {
            let error = splits.unwrap_err().to_string();
            assert!(error.contains("has 2 class names, expected 10"), "{error}");
        }
    }
}
