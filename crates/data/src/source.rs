//! Where the images come from: what a configuration's `[data]` table says.

use crate::cifar::{Cifar, CifarLabels};
#[cfg(feature = "download")]
use crate::cifar_download;
use crate::folder::{self, HoldOut};
use crate::shapes;
use crate::tree::Tree;
use crate::{DataError, LoadOptions, Progress, Splits};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the images come from.
///
/// ```toml
/// [data]
/// source = "cifar100"
/// labels = "coarse"
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataSource {
    /// Generated images of ten shapes on clutter, with the foreground known.
    Shapes {
        /// Height and width in pixels.
        #[serde(default = "default::size")]
        size: u32,
        /// The most that a figure measures, as a share of the image's side; the least is 8/11 of it.
        #[serde(default = "default::figure")]
        figure: f64,
        /// Number of training images.
        #[serde(default = "default::train")]
        train: usize,
        /// Number of test images.
        #[serde(default = "default::test")]
        test: usize,
        /// Seed of the images.
        #[serde(default)]
        seed: u64,
    },
    /// CIFAR-10: 32 x 32 images of 10 classes, 50,000 to train and 10,000 to test.
    Cifar10 {},
    /// CIFAR-100: 32 x 32 images of 100 classes, 50,000 to train and 10,000 to test.
    Cifar100 {
        /// Which labels are learned.
        #[serde(default)]
        labels: CifarLabels,
    },
    /// The user's own images: a folder or archive with `train/<class>/*` and optionally `val/<class>/*` and
    /// `test/<class>/*`, in any case (`Train`, `TEST`); or `<class>/*` alone.
    Folder {
        /// Share of the images held out for the test where there is no test split.
        #[serde(default = "default::test_fraction")]
        test_fraction: f64,
        /// Seed of the choice.
        #[serde(default)]
        seed: u64,
    },
}

mod default {
    use crate::folder::HoldOut;

    pub fn size() -> u32 {
        32
    }

    pub fn figure() -> f64 {
        crate::shape_image::LARGEST_FIGURE
    }

    pub fn train() -> usize {
        8000
    }

    pub fn test() -> usize {
        1000
    }

    pub fn test_fraction() -> f64 {
        HoldOut::USUAL.fraction
    }
}

impl Default for DataSource {
    /// The generated shapes: nothing to download.
    fn default() -> Self {
        Self::Shapes {
            size: default::size(),
            figure: default::figure(),
            train: default::train(),
            test: default::test(),
            seed: 0,
        }
    }
}

/// CIFAR's official archive in the cache folder.
#[cfg(feature = "download")]
fn fetched(dataset: Cifar, progress: Progress) -> Result<PathBuf, DataError> {
    let base = std::env::var("APT_CIFAR_URL_BASE");
    cifar_download::fetch(
        dataset,
        base.as_deref().unwrap_or(cifar_download::OFFICIAL),
        &crate::cache_folder()?,
        &crate::download::Downloader::default(),
        progress,
    )
}

#[cfg(not(feature = "download"))]
fn fetched(dataset: Cifar, _: Progress) -> Result<PathBuf, DataError> {
    Err(DataError::NoDownloads(dataset.title()))
}

impl DataSource {
    /// Loads the images from the user's file or folder; without one they are generated, or
    /// downloaded into the cache folder (`APT_CIFAR_URL_BASE` names another server than the
    /// official one).
    ///
    /// A path needs no network, and what is found there decides: for CIFAR the official binary
    /// files in a folder or .tar.gz, or image folders in a folder or .tgz.
    ///
    /// # Errors
    ///
    /// If the files are missing, damaged, or of another source, or if a download fails; the message
    /// says what to do.
    pub fn load(
        &self,
        path: Option<&Path>,
        options: impl Into<LoadOptions>,
    ) -> Result<Splits, DataError> {
        let options = options.into();
        self.load_with(path, options, |dataset| fetched(dataset, options.progress))
    }

    /// The source of what stands at `path`, with its defaults.
    ///
    /// # Errors
    ///
    /// If nothing can be read there.
    pub fn of(path: &Path) -> Result<Self, DataError> {
        let tree = Tree::open(path, Progress::Hidden)?;
        Ok(match Cifar::find(&tree) {
            Some((Cifar::Ten, _)) => Self::Cifar10 {},
            Some((Cifar::Hundred(labels), _)) => Self::Cifar100 { labels },
            None => Self::Folder {
                test_fraction: default::test_fraction(),
                seed: 0,
            },
        })
    }

    /// Its name in a config.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Shapes { .. } => "shapes",
            Self::Cifar10 {} => "cifar10",
            Self::Cifar100 { .. } => "cifar100",
            Self::Folder { .. } => "folder",
        }
    }

    /// As [`load`](Self::load), with the way to CIFAR's official archive given.
    fn load_with(
        &self,
        path: Option<&Path>,
        options: impl Into<LoadOptions>,
        fetch: impl Fn(Cifar) -> Result<PathBuf, DataError>,
    ) -> Result<Splits, DataError> {
        let options = options.into();
        match (self, path) {
            (
                &Self::Shapes {
                    size,
                    figure,
                    train,
                    test,
                    seed,
                },
                None,
            ) => shapes::load(size, figure, [train, test], seed, options.progress),
            (Self::Shapes { .. }, Some(path)) => Err(DataError::PathUnused { path: path.into() }),
            (Self::Cifar10 {}, path) => load_cifar(Cifar::Ten, path, options, fetch),
            (Self::Cifar100 { labels }, path) => {
                load_cifar(Cifar::Hundred(*labels), path, options, fetch)
            }
            (Self::Folder { .. }, None) => Err(DataError::PathNeeded),
            (
                &Self::Folder {
                    test_fraction: fraction,
                    seed,
                },
                Some(path),
            ) => {
                if !(fraction > 0.0 && fraction < 1.0) {
                    return Err(DataError::Setting {
                        field: "data.test_fraction",
                        found: fraction.to_string(),
                        expected: "a share between 0 and 1, such as 0.1",
                    });
                }
                let tree = Tree::open(path, options.progress)?;
                if let Some((found, _)) = Cifar::find(&tree) {
                    return Err(wrong_source(path, found, "folder"));
                }
                folder::load(tree, HoldOut { fraction, seed }, options)
            }
        }
    }
}

/// The official archive, or whatever stands at the user's path.
fn load_cifar(
    dataset: Cifar,
    path: Option<&Path>,
    options: LoadOptions,
    fetch: impl Fn(Cifar) -> Result<PathBuf, DataError>,
) -> Result<Splits, DataError> {
    let path = match path {
        None => fetch(dataset)?,
        // Someone who downloads by hand may give the folder of the download.
        Some(path) if path.join(dataset.archive()).is_file() => path.join(dataset.archive()),
        Some(path) => path.to_path_buf(),
    };
    let tree = Tree::open(&path, options.progress)?;
    match (dataset, Cifar::find(&tree)) {
        (Cifar::Ten, Some((Cifar::Ten, folder)))
        | (Cifar::Hundred(_), Some((Cifar::Hundred(_), folder))) => dataset.load(&tree, &folder),
        (_, Some((found, _))) => Err(wrong_source(&path, found, dataset.source())),
        (_, None) => folder::load(tree, HoldOut::USUAL, options),
    }
}

fn wrong_source(path: &Path, found: Cifar, configured: &'static str) -> DataError {
    DataError::WrongSource {
        path: path.into(),
        found: found.title(),
        configured,
        fix: found.source(),
    }
}

#[cfg(test)]
mod tests;
