//! Images by their path alone: what stands there decides.

use std::path::Path;

use crate::cifar::{Cifar, CifarLabels};
use crate::folder::{self, HoldOut};
use crate::pictures;
use crate::tree::Tree;
use crate::{DataError, DataSource, ImageDataset, LoadOptions, Splits};

impl DataSource {
    /// Loads whatever stands at `path`: CIFAR's official files, or image folders.
    ///
    /// # Errors
    ///
    /// If the files are missing or damaged.
    pub fn load_any(path: &Path, options: impl Into<LoadOptions>) -> Result<Splits, DataError> {
        let options = options.into();
        let tree = Tree::open(path, options.progress)?;
        match Cifar::find(&tree) {
            Some((cifar, folder)) => cifar.load(&tree, &folder),
            None => folder::load(tree, HoldOut::USUAL, options),
        }
    }

    /// The images of `path` that a trained model is measured on, and where they are: those of its test split, else of its
    /// validation split, else all. CIFAR-100 has fine labels unless `labels` says others. Pictures that stand in no folder
    /// of a class have no labels ([`ImageDataset::is_labelled`]).
    ///
    /// # Errors
    ///
    /// If the files are missing or damaged.
    pub fn load_to_measure(
        path: &Path,
        labels: CifarLabels,
        options: impl Into<LoadOptions>,
    ) -> Result<(ImageDataset, String), DataError> {
        let options = options.into();
        let tree = Tree::open(path, options.progress)?;
        match Cifar::find(&tree) {
            Some((cifar, folder)) => {
                let cifar = match cifar {
                    Cifar::Ten => cifar,
                    Cifar::Hundred(_) => Cifar::Hundred(labels),
                };
                let splits = cifar.load(&tree, &folder)?;
                Ok((splits.test, path.display().to_string()))
            }
            // Pictures that stand in no folder of a class can be compared, though not with the truth.
            None => match folder::load_to_measure(&tree, options) {
                Err(no_classes @ DataError::NoImages { .. }) => {
                    match pictures::load(&tree, options) {
                        Err(DataError::NoPictures { .. }) => Err(no_classes),
                        images => Ok((images?, path.display().to_string())),
                    }
                }
                found => found,
            },
        }
    }

    /// The images of `path` on which something is fitted that asks for no labels: those of its training split, else all
    /// pictures below it. They come without labels.
    ///
    /// # Errors
    ///
    /// If there is none, or one cannot be read.
    pub fn load_to_learn(
        path: &Path,
        options: impl Into<LoadOptions>,
    ) -> Result<ImageDataset, DataError> {
        let options = options.into();
        let tree = Tree::open(path, options.progress)?;
        match load_training(&tree, options) {
            Err(DataError::NoImages { .. }) => pictures::load(&tree, options),
            images => Ok(images?.without_labels()),
        }
    }

    /// The labelled images of `path` that may be learned or remembered: those of its training split, else all. There may be
    /// one class alone.
    ///
    /// # Errors
    ///
    /// If there is none, or one cannot be read.
    pub fn load_labelled(
        path: &Path,
        options: impl Into<LoadOptions>,
    ) -> Result<ImageDataset, DataError> {
        let options = options.into();
        load_training(&Tree::open(path, options.progress)?, options)
    }

    /// All pictures below `path`, a folder or an archive, whatever folders they stand in. They have no labels.
    ///
    /// # Errors
    ///
    /// If there is none, or one cannot be read.
    pub fn load_pictures(
        path: &Path,
        options: impl Into<LoadOptions>,
    ) -> Result<ImageDataset, DataError> {
        let options = options.into();
        pictures::load(&Tree::open(path, options.progress)?, options)
    }
}

/// CIFAR's training images, or those of folders.
fn load_training(tree: &Tree, options: LoadOptions) -> Result<ImageDataset, DataError> {
    match Cifar::find(tree) {
        Some((cifar, folder)) => Ok(cifar.load(tree, &folder)?.train),
        None => folder::load_to_learn(tree, options),
    }
}
