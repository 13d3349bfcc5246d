//! What a policy has to remove to meet a budget.

use std::path::Path;

use apt_data::read_text;
use apt_pruning_agent::Selection;
use serde::{Deserialize, Serialize};

use crate::InferenceError;
use crate::files::{to_json, write_whole};

/// Where a run's budgets are.
const FILE: &str = "budgets.json";

/// How much a policy has to remove to compute a given share of the dense model's FLOPs, fitted on held-out images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// The share that was asked for.
    pub target_flops: f64,
    /// How much that is.
    #[serde(flatten)]
    pub selection: Selection,
    /// The share on the images that it was fitted on, the policy's own FLOPs included.
    pub flops_share: f64,
    /// Share of them that is classified right; none of images without labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// How many they were.
    pub images: usize,
    /// The checkpoint whose policy it is.
    pub checkpoint: String,
}

/// The budgets for which a policy was calibrated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Budgets(pub Vec<Budget>);

impl Budgets {
    /// Reads those of a folder; there may be none.
    ///
    /// # Errors
    ///
    /// Where the file is damaged.
    pub fn read(folder: &Path) -> Result<Self, InferenceError> {
        let path = folder.join(FILE);
        if matches!(path.try_exists(), Ok(false)) {
            return Ok(Self::default());
        }
        let text = read_text(&path)?;
        serde_json::from_str(&text).map_err(|error| {
            let reason = format!("is damaged: {error}; remove it, and calibrate again");
            InferenceError::folder(&path, reason)
        })
    }

    /// Writes them into a folder.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), InferenceError> {
        write_whole(&folder.join(FILE), to_json(self)?.as_bytes())
    }

    /// Adds a budget, in place of one with the same target and checkpoint.
    pub fn add(&mut self, budget: Budget) {
        self.0.retain(|old| {
            (old.target_flops, &old.checkpoint) != (budget.target_flops, &budget.checkpoint)
        });
        self.0.push(budget);
        self.0
            .sort_by(|a, b| b.target_flops.total_cmp(&a.target_flops));
    }

    /// What meets the share `target` with a checkpoint.
    pub fn find(&self, target: f64, checkpoint: &str) -> Option<&Budget> {
        let mut budgets = self.0.iter();
        budgets.find(|budget| {
            budget.checkpoint == checkpoint && (budget.target_flops - target).abs() < 1e-9
        })
    }

    /// Those of one checkpoint.
    pub fn of(&self, checkpoint: &str) -> Self {
        let budgets = self.0.iter();
        let own = budgets.filter(|budget| budget.checkpoint == checkpoint);
        Self(own.cloned().collect())
    }
}
