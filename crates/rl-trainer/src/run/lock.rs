//! One training at a time in a run's folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use crate::TrainerError;

/// The file that is locked.
const FILE: &str = "lock";

/// Held as long as a training is at work in a folder; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock of a folder that is there.
    ///
    /// # Errors
    ///
    /// Where another training holds it, or the file cannot be written.
    pub fn take(folder: &Path) -> Result<Self, TrainerError> {
        let path = folder.join(FILE);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options
            .open(&path)
            .map_err(TrainerError::io(&path, "write"))?;
        match file.try_lock() {
            Ok(()) => {
                // Only for people: what is locked is the file, not what is in it.
                let written = file
                    .set_len(0)
                    .and_then(|()| write!(file, "{}", std::process::id()));
                written.map_err(TrainerError::io(&path, "write"))?;
            }
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                let _ = file.read_to_string(&mut process);
                let process = process.trim();
                let by = if process.is_empty() {
                    String::new()
                } else {
                    format!(" (process {process})")
                };
                return Err(TrainerError::RunFolder {
                    path: folder.to_path_buf(),
                    reason: format!(
                        "another training{by} is at work in this folder; wait for its end or stop it first, or train \
                         into another folder with --out"
                    ),
                });
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) => {
                tracing::warn!(
                    "{}: cannot be locked ({error}): start no other training in this folder",
                    path.display()
                );
            }
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_training_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunLock::take(folder.path()).unwrap();
        let message = RunLock::take(folder.path()).unwrap_err().to_string();
        let folder_name = folder.path().display().to_string();
        let process = std::process::id().to_string();
        assert!(message.contains(&folder_name), "{message}");
        assert!(message.contains(&process), "{message}");
        drop(first);
        RunLock::take(folder.path()).unwrap();
    }
}
