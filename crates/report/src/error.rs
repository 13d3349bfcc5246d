use std::path::PathBuf;

use apt_data::DataError;
use apt_inference::InferenceError;
use apt_rl_trainer::TrainerError;
use apt_vit_model::printable;

/// Why there is no report, or no picture.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The folder holds nothing to report on.
    #[error("{}: {reason}", printable(path))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// A picture could not be drawn or encoded.
    #[error("cannot draw the picture: {0}")]
    Drawing(String),
    /// The images could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model could not be opened, or did not answer.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// The run or the sweep could not be opened.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
}

impl ReportError {
    pub(crate) fn folder(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Folder {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn drawing(reason: impl ToString) -> Self {
        Self::Drawing(reason.to_string())
    }
}
