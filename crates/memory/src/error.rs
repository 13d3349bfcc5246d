use std::path::{Path, PathBuf};
use std::time::Duration;

use apt_data::DataError;
use apt_inference::InferenceError;
use apt_vit_model::{printable, printable_text};

/// What is said of a memory that is there.
pub(crate) const IS_THERE: &str =
    "is there already: add to it, or say that it may be replaced (--replace)";

/// What is said of a database that does not answer.
pub(crate) const AWAY: &str = "the database is away";
/// It is asked again after so long.
pub(crate) const PAUSE: Duration = Duration::from_secs(2);

/// What can go wrong between a memory and an answer.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A file is no memory, or is damaged.
    #[error("{}: {reason}", printable(path))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A database did not do what was asked of it.
    #[error("{}: {reason}", printable_text(address))]
    Database {
        /// Its address, without a password.
        address: String,
        /// What it said, and what to do.
        reason: String,
    },
    /// A database does not answer. It may do so later.
    #[error("{}: {reason}", printable_text(address))]
    Away {
        /// Its address, without a password.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// A memory's address that names no database.
    #[error("{}: {reason}", printable_text(address))]
    Address {
        /// What was given.
        address: String,
        /// What was expected.
        reason: String,
    },
    /// The memory was built with another model.
    #[error(
        "the memory was built with another model: {found}; expected {expected}. Build one with this model: \
         `aptvit memory build`"
    )]
    OtherModel {
        /// What the memory says.
        found: String,
        /// What the model says.
        expected: String,
    },
    /// An image cannot be remembered.
    #[error("{}: {reason}", printable_text(source_name))]
    Image {
        /// Where the image comes from.
        source_name: String,
        /// Why.
        reason: String,
    },
    /// The model.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// The images.
    #[error(transparent)]
    Data(#[from] DataError),
}

impl MemoryError {
    /// Is it a database that does not answer, and may do so later?
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. })
    }

    /// What is wrong with a file.
    pub(crate) fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}
