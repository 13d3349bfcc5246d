//! Files that are there as a whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::InferenceError;

/// Writes a file, whole or not at all: to `NAME.partial` first.
///
/// # Errors
///
/// Where it cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), InferenceError> {
    let partial = partial(path);
    fs::write(&partial, bytes).map_err(InferenceError::io(path, "write"))?;
    fs::rename(&partial, path).map_err(InferenceError::io(path, "write"))
}

/// Where a file is until it is whole: `NAME.partial`.
pub fn partial(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    partial.into()
}

/// Indented JSON, with a newline at its end.
///
/// # Errors
///
/// Where the value has no form in JSON.
pub fn to_json<T: Serialize>(value: &T) -> Result<String, InferenceError> {
    let text = serde_json::to_string_pretty(value).map_err(InferenceError::Unwritable)?;
    Ok(text + "\n")
}
