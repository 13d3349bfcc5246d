use std::path::{Path, PathBuf};

use apt_data::DataError;
use apt_pruning_agent::AgentError;
use apt_vit_model::{VitError, printable, printable_text};

use crate::NotFinite;

/// What can go wrong between a folder and an answer.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// A file or folder could not be read or written.
    #[error("{}: cannot {action}: {source}", printable(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder is no run and no exported model, or is not complete.
    #[error("{}: {reason}", printable(path))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is missing, and what to do.
        reason: String,
    },
    /// A file is not what was written: bits of it changed, or it was cut short.
    #[error(
        "{}: is damaged: found {found}, expected {expected}; {advice}",
        printable(path)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its checksum.
        found: String,
        /// The checksum of what was written.
        expected: String,
        /// What to do.
        advice: String,
    },
    /// A checkpoint could not be written or read.
    #[error("{}: checkpoint: {reason}", printable(path))]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The device does not compute in such floats.
    #[error("{found}: this device cannot compute in it; it can in {able}")]
    Precision {
        /// What was asked for.
        found: &'static str,
        /// What the device can.
        able: String,
    },
    /// A budget for which the policy has to be calibrated first.
    #[error(
        "the policy is not calibrated for {share} of the FLOPs with the checkpoint {checkpoint}; do so with `aptvit \
         calibrate --run RUN --flops {share}`, and the same --checkpoint where you chose one"
    )]
    NotCalibrated {
        /// The share.
        share: f64,
        /// The checkpoint.
        checkpoint: String,
    },
    /// A budget for which an exported policy was not calibrated.
    #[error(
        "{share} of the FLOPs: the policy of this folder was calibrated for {}; make the folder again for {share} too, as \
         it was made: by `aptvit prune --flops`, or by `aptvit calibrate` and `aptvit export`",
        if known.is_empty() { "none" } else { known.as_str() }
    )]
    NotExported {
        /// The share.
        share: f64,
        /// Those it was calibrated for.
        known: String,
    },
    /// A model that has no policy to prune with.
    #[error("the policy `{0}` removes nothing, so that it meets no budget; choose another one")]
    Unprunable(&'static str),
    /// Not as many names as classes.
    #[error("{found} names of classes, expected {expected}: the model has as many classes")]
    ClassNames {
        /// Names.
        found: usize,
        /// Classes.
        expected: usize,
    },
    /// What a model computed for an image is no number.
    #[error("{}: {reason}", printable_text(image))]
    NotFinite {
        /// The image.
        image: String,
        /// What is not finite, and why.
        reason: NotFinite,
    },
    /// Answers of two models that do not fit together.
    #[error("these answers cannot be compared: {reason}")]
    Compared {
        /// Found and expected.
        reason: String,
    },
    /// A value that has no form in JSON.
    #[error("cannot be written as JSON: {0}")]
    Unwritable(serde_json::Error),
    /// About an image.
    #[error(transparent)]
    Data(#[from] DataError),
    /// About the model or its weights.
    #[error(transparent)]
    Vit(#[from] VitError),
    /// About the policy.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl InferenceError {
    /// For `map_err`: an I/O error on `path` while trying to `action` it.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }

    pub(crate) fn folder(path: &Path, reason: impl Into<String>) -> Self {
        Self::Folder {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}
