//! Images in, normalised batches out.
//!
//! A [`DataSource`] (generated shapes, CIFAR, or the user's image folders) loads as [`Splits`] of
//! [`ImageDataset`]s. A [`TrainLoader`] turns one into an endless, seeded stream of [`Batch`]es
//! that is the same for any number of threads and from any batch on; an [`EvalLoader`] goes
//! through it in order. Both are Burn data loaders.
//!
//! ```
//! use apt_data::{DataSource, EvalLoader, Normalization, Progress};
//! use burn::data::dataloader::DataLoader;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let source = DataSource::Shapes { size: 32, figure: 0.55, train: 100, test: 20, seed: 0 };
//! let splits = source.load(None, Progress::Hidden)?;
//! assert_eq!(splits.test.class_names()[splits.test.label(0)], "circle");
//!
//! let loader = EvalLoader::new(splits.test, 8, [32, 32], Normalization::HALF, 2);
//! for batch in loader.iter() {
//!     let batch = batch?;
//!     assert_eq!(batch.images.dims()[1..], [3, 32, 32]);
//! }
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

mod at_path;
mod bad_images;
mod batch;
mod cache;
mod canvas;
#[cfg(feature = "download")]
mod checksum;
mod cifar;
#[cfg(feature = "download")]
mod cifar_download;
#[cfg(feature = "download")]
mod content;
mod corruption;
mod dataset;
mod decode;
#[cfg(feature = "download")]
mod download;
mod error;
mod figure;
mod folder;
mod loader;
mod normalize;
mod order;
mod picture_files;
mod picture_format;
mod pictures;
mod prefetch;
mod printable;
mod progress;
mod regular_file;
mod rgb_image;
#[cfg(test)]
mod samples;
mod seed;
#[cfg(all(test, feature = "download"))]
mod server;
mod shape_image;
mod shapes;
mod source;
mod transform;
mod tree;

pub use bad_images::{BadImage, LoadOptions, OnBad};
pub use batch::{Batch, Place};
pub use cache::cache_folder;
#[cfg(feature = "download")]
pub use checksum::Checksum;
pub use cifar::CifarLabels;
pub use corruption::{CorruptionKind, PatchCorruption};
pub use dataset::{ImageDataset, ImageItem, Splits};
pub use decode::{MAX_PIXELS, MAX_SIDE};
#[cfg(feature = "download")]
pub use download::download;
pub use error::{DataError, DownloadError, FolderError};
pub use loader::{EvalLoader, LoaderSettings, TrainLoader};
pub use picture_files::picture_files;
pub use picture_format::PICTURE_EXTENSIONS;
pub use progress::Progress;
pub use regular_file::{MAX_PICTURE_BYTES, MAX_TEXT_BYTES, read_text};
pub use rgb_image::RgbImage;
pub use seed::mix_seed;
pub use source::DataSource;
pub use transform::{EvalTransform, Normalization, TrainTransform, eval_image, train_image};
