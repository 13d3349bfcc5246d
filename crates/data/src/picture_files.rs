//! The pictures that a user's folder holds.

use crate::DataError;
use crate::tree::{EntryContent, Tree};
use std::path::{Path, PathBuf};

/// The files in a folder and in the folders below it whose names say that they are pictures
/// ([`PICTURE_EXTENSIONS`](crate::PICTURE_EXTENSIONS)), sorted; hidden ones are left out. None of them is opened.
///
/// # Errors
///
/// If a folder cannot be read.
pub fn picture_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let tree = Tree::walk(folder)?;
    let pictures = tree.entries.into_iter().filter(|entry| entry.is_image());
    let files = pictures.filter_map(|entry| match entry.content {
        EntryContent::File(path) => Some(path),
        _ => None,
    });
    Ok(files.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::write_files;

    #[test]
    fn pictures_are_found_by_name_in_order_and_hidden_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "b/2.WEBP",
            "b/1.gif",
            "a.bmp",
            "notes.txt",
            ".a.png",
            "c.jpeg",
        ];
        let files = names.map(|name| (name.to_string(), Vec::new()));
        write_files(folder.path(), &files);
        let found = picture_files(folder.path()).unwrap();
        let expected = ["a.bmp", "b/1.gif", "b/2.WEBP", "c.jpeg"];
        assert_eq!(found, expected.map(|name| folder.path().join(name)));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_found_and_one_in_a_circle_is_not_followed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        symlink("nowhere", folder.path().join("a.png")).unwrap();
        symlink(folder.path(), folder.path().join("circle")).unwrap();
        let found = picture_files(folder.path()).unwrap();
        assert_eq!(found, [folder.path().join("a.png")]);
    }
}
