//! The official archives of CIFAR, from the network.

use crate::checksum::Checksum;
use crate::cifar::Cifar;
use crate::download::Downloader;
use crate::{DataError, Progress};
use std::path::{Path, PathBuf};

/// Where they are.
pub(crate) const OFFICIAL: &str = "https://www.cs.toronto.edu/~kriz";

/// The official archive in `cache`, downloaded from below `base` where it is missing.
pub(crate) fn fetch(
    dataset: Cifar,
    base: &str,
    cache: &Path,
    downloader: &Downloader,
    progress: Progress,
) -> Result<PathBuf, DataError> {
    let md5 = match dataset {
        Cifar::Ten => "c32a1d4ab5d03f1284b67883e8d87530",
        Cifar::Hundred(_) => "03b5dce01913d631647c71ecec9e9cb8",
    };
    let archive = dataset.archive();
    let path = cache.join(archive);
    let url = format!("{}/{archive}", base.trim_end_matches('/'));
    downloader.fetch(&url, &path, &Checksum::Md5(md5.into()), progress)?;
    Ok(path)
}
