//! What an experiment's TOML file can say.

mod forms;
mod model;
mod optimizer;
mod parse;
mod policy;
mod retired;
mod train;
mod validate;

use std::path::Path;

use apt_data::{
    DataError, DataSource, ImageDataset, LoadOptions, Normalization, OnBad, PatchCorruption,
    Progress, Splits, TrainTransform,
};
use serde::{Deserialize, Serialize};

use crate::TrainerError;

pub use self::model::ModelConfig;
pub use self::optimizer::{Decay, OptimizerConfig, OptimizerKind, ScheduleConfig};
pub use self::parse::policy_settings;
pub use self::policy::PolicySection;
pub use self::train::{Freeze, FrozenPart, TrainConfig};

/// One experiment, as a TOML file says it. Every field has a default; a file has to name its
/// `data`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentConfig {
    /// Everything random derives from it.
    #[serde(default)]
    pub seed: u64,
    /// What the pruned model may compute: shares of the dense model's FLOPs, the policy's own included. In training, one is
    /// drawn for each batch; the trained model meets each. Empty: the policy removes what it wants, as published.
    #[serde(default)]
    pub flops: Vec<f64>,
    /// Who decides which tokens stay, and how that is learned.
    #[serde(default)]
    pub policy: PolicySection,
    /// Which images.
    pub data: DataSource,
    /// How they reach the model.
    #[serde(default)]
    pub input: InputConfig,
    /// The model.
    #[serde(default)]
    pub model: ModelConfig,
    /// The training loop.
    #[serde(default)]
    pub train: TrainConfig,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The learning rate over the steps.
    #[serde(default)]
    pub schedule: ScheduleConfig,
}

/// `[input]`: which images there are of each kind, and what happens to one before the model sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// Random crop and flip of training images; test images are only resized.
    pub transform: TrainTransform,
    /// Mean and standard deviation of the channels.
    pub normalization: Normalization,
    /// Use only so many training images; all where absent.
    pub train_images: Option<usize>,
    /// Training images held out to choose checkpoints by.
    pub val_images: usize,
    /// The seed that chooses them; the config's where absent.
    pub val_seed: Option<u64>,
    /// Use only so many test images; all where absent.
    pub test_images: Option<usize>,
    /// What happens where images cannot be read.
    pub on_bad: OnBad,
    /// Which patches of every image are replaced, and by what; none where absent.
    pub corrupt: Option<PatchCorruption>,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self {
            transform: TrainTransform::default(),
            normalization: Normalization::default(),
            train_images: None,
            val_images: 2_000,
            val_seed: None,
            test_images: None,
            on_bad: OnBad::default(),
            corrupt: None,
        }
    }
}

impl ExperimentConfig {
    /// Loads the images, of the user's path where there is one, and does with those that cannot be read what the config
    /// says.
    ///
    /// # Errors
    ///
    /// As [`DataSource::load`].
    pub fn load_data(&self, path: Option<&Path>, progress: Progress) -> Result<Splits, DataError> {
        let on_bad = self.input.on_bad;
        self.data.load(path, LoadOptions { progress, on_bad })
    }

    /// The images, patches of each replaced where the config says so: by the patches of its model, whose sizes have to be known
    /// ([`ModelConfig::complete`]).
    ///
    /// # Errors
    ///
    /// Where these sizes do not fit together.
    pub fn corrupted(&self, images: ImageDataset) -> Result<ImageDataset, TrainerError> {
        let Some(corruption) = self.input.corrupt else {
            return Ok(images);
        };
        let grid = self.model.resolve(images.num_classes())?.grid();
        Ok(images.corrupted(corruption, grid))
    }

    /// The seed that chooses the images held out from training.
    pub fn val_seed(&self) -> u64 {
        self.input.val_seed.unwrap_or(self.seed)
    }

    /// Epochs of the training: evaluations and checkpoints.
    pub fn num_epochs(&self) -> usize {
        self.train.steps.div_ceil(self.train.eval_interval)
    }

    /// The mean of the budgets: what a pruned pass computes of the dense FLOPs; 1 without budgets.
    pub fn mean_share(&self) -> f64 {
        if self.flops.is_empty() {
            1.0
        } else {
            self.flops.iter().sum::<f64>() / self.flops.len() as f64
        }
    }
}

#[cfg(test)]
mod tests;
