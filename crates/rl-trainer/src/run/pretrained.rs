use std::path::{Path, PathBuf};

use apt_data::{Checksum, Progress, cache_folder, download};
use apt_vit_model::KnownCheckpoint;

use crate::TrainerError;

/// Where the weights are that a config or a user names: a file or folder, or the name of a known
/// checkpoint, which is downloaded if it is not in the cache.
///
/// # Errors
///
/// Where neither is there, or the download fails.
pub fn locate_weights(path: &Path, progress: Progress) -> Result<PathBuf, TrainerError> {
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    match path.to_str().and_then(KnownCheckpoint::from_name) {
        // It was proved complete when it was downloaded.
        Some(known) if is_cached(known) => place_of(known),
        Some(known) => fetch_checkpoint(known, progress),
        None => Err(TrainerError::Field {
            field: "model.pretrained".into(),
            found: path.display().to_string(),
            expected: "is no file or folder, and no name that `aptvit fetch` lists".into(),
        }),
    }
}

/// Downloads a checkpoint into the cache, unless it is there. Returns its file, or its folder where
/// it has several.
///
/// `HF_ENDPOINT` names a mirror of Hugging Face, as for Hugging Face's own tools.
///
/// # Errors
///
/// Where the download fails.
pub fn fetch_checkpoint(
    known: &KnownCheckpoint,
    progress: Progress,
) -> Result<PathBuf, TrainerError> {
    let folder = folder_of(known)?;
    for (url, file) in known.urls.iter().zip(known.files()) {
        let path = folder.join(file);
        download(&mirrored(url), &path, &Checksum::FirstUse, progress)?;
    }
    place_of(known)
}

/// Its file in the cache, or its folder where it has several.
fn place_of(known: &KnownCheckpoint) -> Result<PathBuf, TrainerError> {
    let folder = folder_of(known)?;
    let mut files = known.files();
    Ok(match (files.next(), files.next()) {
        (Some(file), None) => folder.join(file),
        _ => folder,
    })
}

fn folder_of(known: &KnownCheckpoint) -> Result<PathBuf, TrainerError> {
    Ok(cache_folder()?.join("weights").join(known.name))
}

/// Are all its files in the cache?
pub(crate) fn is_cached(known: &KnownCheckpoint) -> bool {
    let mut files = known.files();
    folder_of(known).is_ok_and(|folder| files.all(|file| folder.join(file).is_file()))
}

fn mirrored(url: &str) -> String {
    match std::env::var("HF_ENDPOINT") {
        Ok(mirror) if !mirror.is_empty() => {
            url.replacen("https://huggingface.co", mirror.trim_end_matches('/'), 1)
        }
        _ => url.to_string(),
    }
}
