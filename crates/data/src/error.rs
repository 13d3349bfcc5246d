//! What can go wrong with data, told to the person who has to mend it.

mod download;
mod folder;

use crate::printable::{printable, printable_text};
use std::io;
use std::path::{Path, PathBuf};

pub use download::DownloadError;
pub use folder::FolderError;

/// Every error of this crate. The message names the file or field, what was found, what was
/// expected, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {reason}", printable(path))]
    Io {
        /// What was tried: "read", "create", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        reason: io::Error,
    },

    /// A setting has a value that makes no sense.
    #[error("{field} = {found} is not possible: expected {expected}")]
    Setting {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        found: String,
        /// What values are possible.
        expected: &'static str,
    },

    /// The source needs a path and none was given.
    #[error(
        "data source \"folder\" has no images of its own: \
         give the folder or .tar.gz of your images with --data"
    )]
    PathNeeded,

    /// A path was given to a source that is generated.
    #[error(
        "data source \"shapes\" is generated and reads no file, but {} was given: leave out --data, \
         or set source = \"folder\" (own images), \"cifar10\" or \"cifar100\"",
        printable(path)
    )]
    PathUnused {
        /// The user's path.
        path: PathBuf,
    },

    /// The files belong to another source than the configured one.
    #[error(
        "{} holds the {found} files, but the data source is \"{configured}\": \
         set source = \"{fix}\", or give another path",
        printable(path)
    )]
    WrongSource {
        /// The user's path.
        path: PathBuf,
        /// What was found there.
        found: &'static str,
        /// The configured source.
        configured: &'static str,
        /// The source that would read the files.
        fix: &'static str,
    },

    /// No picture was found.
    #[error(
        "no pictures in {} (found {found}): expected PNG, JPEG, WebP, BMP or GIF files in it or in its folders", path.display()
    )]
    NoPictures {
        /// The user's path.
        path: PathBuf,
        /// The first names that were found instead.
        found: String,
    },

    /// No class folders and no CIFAR files were found.
    #[error(
        "no image folders in {} (found {found}): expected train/<class>/*.png or other pictures (and \
         optionally val/<class>/* and test/<class>/*), <class>/* alone, or the official binary CIFAR files",
        printable(path)
    )]
    NoImages {
        /// The user's path.
        path: PathBuf,
        /// The first names that were found instead.
        found: String,
    },

    /// Images are of classes that a model does not have.
    #[error(
        "the images are of classes that the model does not have, or has twice ({unknown}); its classes are {known}: \
         expected folders named as the model's classes"
    )]
    OtherClasses {
        /// The images' classes.
        unknown: String,
        /// The model's.
        known: String,
    },

    /// A file that should be an image is none.
    #[error(
        "{name} is not a readable PNG, JPEG, WebP, BMP or GIF image ({reason}): replace or remove it",
        name = printable_text(name), reason = printable_text(reason)
    )]
    NotAnImage {
        /// The file, or the entry of an archive.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A file is an image, but its bytes are not what was written.
    #[error(
        "{name} is damaged ({format}: {reason}): copy or download it again, or remove it",
        name = printable_text(name), reason = printable_text(reason)
    )]
    DamagedImage {
        /// The file, or the entry of an archive.
        name: String,
        /// The image's format.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },

    /// An image's bytes end before the image does.
    #[error(
        "{name} is cut off: it has {found} bytes, expected more (the end of the image is missing): \
         copy or download it again, or remove it",
        name = printable_text(name)
    )]
    CutImage {
        /// The file, or the entry of an archive.
        name: String,
        /// Its size in bytes.
        found: usize,
    },

    /// Several images cannot be used.
    #[error(
        "{count} of {total} images cannot be read:\n  {first}\nreplace or remove them, or leave bad images out with \
         input.on_bad = \"skip\""
    )]
    BadImages {
        /// How many.
        count: usize,
        /// Of how many.
        total: usize,
        /// The first few, one a line.
        first: String,
    },

    /// No image of a split can be used.
    #[error("none of {total} images can be read:\n  {first}\nreplace them, or give another path")]
    OnlyBadImages {
        /// How many there are.
        total: usize,
        /// The first few, one a line.
        first: String,
    },

    /// One image is too few to train and to test.
    #[error(
        "{} has one image that can be read, and {bad} that cannot: expected at least two good ones",
        printable(path)
    )]
    OneGoodImage {
        /// The user's path.
        path: PathBuf,
        /// Number of images that cannot be read.
        bad: usize,
    },

    /// A path leads to a pipe, a device or a folder.
    #[error(
        "{} is {found}, expected a plain file: save what it gives to a file, and give that",
        printable(path)
    )]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },

    /// A file is too large to be what it should be.
    #[error(
        "{} has {found} bytes, more than {limit}: shrink or remove it",
        printable(path)
    )]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes, as far as it was read.
        found: u64,
        /// The largest size that is read, in bytes.
        limit: u64,
    },

    /// An image's header claims a size beyond [`MAX_SIDE`](crate::MAX_SIDE) or
    /// [`MAX_PIXELS`](crate::MAX_PIXELS).
    #[error(
        "{name} claims to be {width} x {height} pixels, more than {} a side or {} in all: \
         shrink or remove it",
        crate::MAX_SIDE,
        crate::MAX_PIXELS,
        name = printable_text(name)
    )]
    ImageTooLarge {
        /// The file, or the entry of an archive.
        name: String,
        /// Claimed width in pixels.
        width: u32,
        /// Claimed height in pixels.
        height: u32,
    },

    /// An image has a label that its class names do not cover.
    #[error("{name} has label {found}, expected a label below {classes}", name = printable_text(name))]
    Label {
        /// The image, or the record of a file.
        name: String,
        /// The label.
        found: usize,
        /// Number of classes.
        classes: usize,
    },

    /// An archive is truncated, damaged, or no archive.
    #[error(
        "cannot read archive {} ({reason}): expected a complete .tar.gz or .tar; \
         download or copy it again", printable(path),
        reason = printable_text(reason)
    )]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// An archive's entry points out of the archive.
    #[error(
        "archive {} has the entry {entry:?}, which leaves its folder: \
         it is damaged or hostile, get it from a source you trust",
        printable(path)
    )]
    UnsafeEntry {
        /// The archive.
        path: PathBuf,
        /// The entry's path.
        entry: String,
    },

    /// An archive's entry is too large to be what its name says.
    #[error(
        "archive {} has the entry {entry:?} of {found} bytes, expected at most {limit}: \
         shrink or remove it",
        printable(path)
    )]
    EntryTooLarge {
        /// The archive.
        path: PathBuf,
        /// The entry's path.
        entry: String,
        /// Its size in bytes.
        found: u64,
        /// The largest size that is read, in bytes.
        limit: u64,
    },

    /// An official CIFAR file is missing.
    #[error(
        "{} has no {file}: unpack the whole official binary archive, or give the archive itself",
        printable(folder)
    )]
    MissingFile {
        /// Where it should be.
        folder: PathBuf,
        /// The file.
        file: &'static str,
    },

    /// A CIFAR file ends within a record, or is empty.
    #[error(
        "{file} has {found} bytes, expected {expected} (or another multiple of {record}): \
         it is truncated or damaged, get it again",
        file = printable_text(file)
    )]
    Truncated {
        /// The file.
        file: String,
        /// Its size in bytes.
        found: usize,
        /// The official file's size in bytes.
        expected: usize,
        /// Size of a record in bytes.
        record: usize,
    },

    /// A CIFAR file of class names has too few or too many.
    #[error("{file} has {found} class names, expected {expected}: get the official file again", file = printable_text(file))]
    ClassNames {
        /// The file.
        file: String,
        /// Number of names.
        found: usize,
        /// Number of classes.
        expected: usize,
    },

    /// A folder of images is not laid out as expected.
    #[error(transparent)]
    Folder(#[from] FolderError),

    /// A download did not succeed.
    #[error(transparent)]
    Download(#[from] DownloadError),

    /// The system names no folder for cached files.
    #[error(
        "no folder for downloads is known on this system: set APT_CACHE to one, or give --data"
    )]
    NoCacheFolder,

    /// This build has no downloads.
    #[error("{0}: this program was built without downloads: give the images with --data")]
    NoDownloads(&'static str),
}

impl DataError {
    /// For `map_err`: an I/O error on `path` while trying to `action` it.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |reason| Self::Io {
            action,
            path,
            reason,
        }
    }
}
