//! What is wrong with a folder of images in folders of their classes.

use std::path::PathBuf;

use crate::printable::{printable, printable_text};

/// What is wrong with a folder of images in folders of their classes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A classifier needs at least two classes.
    #[error(
        "{} has one class only, \"{class}\": expected a folder per class, at least two \
         (is the path one level too deep or too high?)", printable(path),
        class = printable_text(class)
    )]
    OneClass {
        /// The user's path.
        path: PathBuf,
        /// The only class.
        class: String,
    },

    /// A class folder has no image.
    #[error(
        "class folder {folder} has no images (found {found}): \
         expected files named *.{}; add some, or remove the folder",
        crate::PICTURE_EXTENSIONS.join(", *."),
        folder = printable_text(folder)
    )]
    EmptyClass {
        /// The class folder.
        folder: String,
        /// What was found instead.
        found: String,
    },

    /// Two folders may be the same split.
    #[error(
        "{} has both {first} and {second}: expected one folder of {split} images",
        printable(path)
    )]
    TwoSplits {
        /// The user's path.
        path: PathBuf,
        /// What the split's images are for: "training", "validation" or "test".
        split: &'static str,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },

    /// The name of a class folder is no text.
    #[error(
        "the folder {folder} has a name that is not valid UTF-8, so that it names no class: rename it",
        folder = printable_text(folder)
    )]
    ClassNotUnicode {
        /// The folder, with the bytes that are no text as `\xff`.
        folder: String,
    },

    /// There is nothing to train on.
    #[error(
        "{} has {found}, but no train folder: expected train/<class>/*.png or *.jpg beside it",
        printable(path)
    )]
    NoTraining {
        /// The user's path.
        path: PathBuf,
        /// The split that is there.
        found: String,
    },

    /// The test split has a class that training does not know.
    #[error(
        "test class \"{class}\" in {} is not among the training classes ({known}): \
         rename or remove its folder", printable(path),
        class = printable_text(class)
    )]
    UnknownTestClass {
        /// The user's path.
        path: PathBuf,
        /// The class.
        class: String,
        /// The training classes.
        known: String,
    },
}
