//! What `aptvit prune` was asked and what it found, beside the model that it wrote.

use std::path::{Path, PathBuf};

use apt_inference::{to_json, write_whole};
use apt_rl_trainer::prune::PruneReport;
use serde::Serialize;

use crate::ReportError;

/// Its file.
pub const PRUNING: &str = "pruning.json";

/// `pruning.json`: what `aptvit prune` was asked, and what it found.
#[derive(Clone, Debug, Serialize)]
pub struct Pruning<'a> {
    /// The model that was pruned, as it was named.
    pub model: PathBuf,
    /// The images.
    pub data: PathBuf,
    /// The policy that was asked for.
    pub asked_policy: String,
    /// Images that were looked at, at most.
    pub asked_images: usize,
    /// The seed.
    pub seed: u64,
    /// Version of this program.
    pub version: &'static str,
    /// What was found.
    #[serde(flatten)]
    pub found: &'a PruneReport,
}

impl Pruning<'_> {
    /// Writes it into the pruned model's folder.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), ReportError> {
        let text = to_json(self)?;
        Ok(write_whole(&folder.join(PRUNING), text.as_bytes())?)
    }
}
