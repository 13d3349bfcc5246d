//! Pictures that a command names.

use std::path::PathBuf;

use anyhow::{Result, bail};
use apt_data::{PICTURE_EXTENSIONS, picture_files};
use apt_vit_model::printable;

/// The files that are named, and the pictures in the folders that are named. What cannot be read is found later.
pub fn named_pictures(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    for path in paths {
        if !path.is_dir() {
            pictures.push(path.clone());
            continue;
        }
        let found = picture_files(path)?;
        if found.is_empty() {
            bail!(
                "{}: the folder holds no picture (*.{})",
                printable(path),
                PICTURE_EXTENSIONS.join(", *.")
            );
        }
        pictures.extend(found);
    }
    Ok(pictures)
}
