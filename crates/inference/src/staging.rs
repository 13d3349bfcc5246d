//! A folder's new contents, which are there as a whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use crate::InferenceError;

/// Where they are until they are whole; a folder with it is unfinished.
const UNFINISHED: &str = ".aptvit-unfinished";

/// A place within a folder in which its new contents are made. All that a kill can leave is a folder that says that it is
/// unfinished, and the next try replaces what is in it.
pub(crate) struct Staging<'a> {
    folder: PathBuf,
    /// What is made: files, and folders. The last one is the one by which others know a finished folder.
    names: &'a [&'a str],
    made_folder: bool,
    moving: bool,
}

impl<'a> Staging<'a> {
    /// Is `folder` one that a killed try left?
    pub fn is_unfinished(folder: &Path) -> bool {
        folder.join(UNFINISHED).is_dir()
    }

    /// Begins. What an unfinished try left goes: before it began, there was nothing of these names.
    pub fn begin(folder: &Path, names: &'a [&'a str]) -> Result<Self, InferenceError> {
        let made_folder = !folder.exists();
        let place = folder.join(UNFINISHED);
        if place.is_dir() {
            // From the last to the first, so that it is never taken for a finished one meanwhile.
            for name in names.iter().rev() {
                remove(&folder.join(name))?;
            }
            remove(&place)?;
        }
        fs::create_dir_all(&place).map_err(InferenceError::io(&place, "create"))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            names,
            made_folder,
            moving: false,
        })
    }

    /// Where the new contents are made.
    pub fn path(&self) -> PathBuf {
        self.folder.join(UNFINISHED)
    }

    /// Moves all there is to its place.
    pub fn finish(mut self) -> Result<(), InferenceError> {
        self.moving = true;
        let place = self.path();
        for name in self.names {
            let (from, to) = (place.join(name), self.folder.join(name));
            if from.exists() {
                fs::rename(&from, &to).map_err(InferenceError::io(&to, "write"))?;
            }
        }
        fs::remove_dir(&place).map_err(InferenceError::io(&place, "remove"))
    }
}

impl Drop for Staging<'_> {
    /// After an error, what was made goes; where something is in its place already, the mark has to stay.
    fn drop(&mut self) {
        if self.moving {
            return;
        }
        let _ = fs::remove_dir_all(self.path());
        if self.made_folder {
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

fn remove(path: &Path) -> Result<(), InferenceError> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        Ok(())
    };
    removed.map_err(InferenceError::io(path, "remove"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["parts", "weights", "manifest"];

    fn fill(place: &Path) {
        fs::create_dir(place.join("parts")).unwrap();
        fs::write(place.join("parts/one"), "new").unwrap();
        fs::write(place.join("weights"), "new").unwrap();
        fs::write(place.join("manifest"), "new").unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_killed_at_any_moment_is_made_anew_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("out");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("readme"), "mine").unwrap();
        for moved in 0..=NAMES.len() {
            let mut killed = Staging::begin(&folder, &NAMES).unwrap();
            fill(&killed.path());
            for name in &NAMES[..moved] {
                fs::rename(killed.path().join(name), folder.join(name)).unwrap();
            }
            killed.moving = true;
            drop(killed);
            assert!(Staging::is_unfinished(&folder), "{moved}");
        }
        let again = Staging::begin(&folder, &NAMES).unwrap();
        assert_eq!(names(&folder), [UNFINISHED, "readme"]);
        fill(&again.path());
        again.finish().unwrap();
        assert_eq!(names(&folder), ["manifest", "parts", "readme", "weights"]);
        assert_eq!(fs::read_to_string(folder.join("readme")).unwrap(), "mine");
    }

    #[test]
    fn after_an_error_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let failed = Staging::begin(&out, &NAMES).unwrap();
        fill(&failed.path());
        drop(failed);
        assert!(!out.exists());
    }
}
