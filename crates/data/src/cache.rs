//! Where downloads are kept.

use crate::DataError;
use std::path::PathBuf;

/// The folder for downloads: `APT_CACHE`, or the user's cache folder for "aptvit".
///
/// # Errors
///
/// If `APT_CACHE` is not set and the system knows no home folder.
pub fn cache_folder() -> Result<PathBuf, DataError> {
    if let Some(folder) = std::env::var_os("APT_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    directories::ProjectDirs::from("", "", "aptvit")
        .map(|folders| folders.cache_dir().to_path_buf())
        .ok_or(DataError::NoCacheFolder)
}
