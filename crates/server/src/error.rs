use std::path::{Path, PathBuf};

use apt_inference::InferenceError;
use apt_memory::MemoryError;

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A model cannot be served.
    #[error("model `{name}`: {source}")]
    Model {
        /// Its name.
        name: String,
        /// Why.
        source: Box<InferenceError>,
    },
    /// A memory cannot be used.
    #[error("the memory of `{name}`: {source}")]
    Memory {
        /// Its model's name.
        name: String,
        /// Why.
        source: Box<MemoryError>,
    },
    /// There are no models, or their names cannot be used.
    #[error("models: {0}")]
    Models(String),
    /// An origin that no browser sends.
    #[error(
        "origin `{0}`: expected a scheme and a host without a path or `*`, as in https://example.org"
    )]
    Origin(String),
    /// A file of the certificate cannot be used.
    #[error("{}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread or the runtime could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The exporter of metrics.
    #[error("metrics: {0}")]
    Metrics(String),
}

impl ServerError {
    /// For `map_err`: what is wrong with a file of the certificate.
    pub(crate) fn certificate(path: &Path, reason: impl Into<String>) -> Self {
        Self::Certificate {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}
