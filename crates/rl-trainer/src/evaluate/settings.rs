//! How to evaluate.

use apt_data::{EvalTransform, Normalization};
use apt_inference::{Model, PruningVit};
use apt_pruning_agent::Selection;

use crate::run::RunFolder;

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct EvaluationSettings {
    /// How much goes.
    pub selection: Selection,
    /// Images of a forward pass.
    pub batch_size: usize,
    /// How the model's images are normalised.
    pub normalization: Normalization,
    /// How they are sized.
    pub transform: EvalTransform,
    /// Threads that load images.
    pub workers: usize,
    /// Compare the answers of every pass with those of the dense one, where there is one.
    pub compare: bool,
    /// A model that is evaluated first, dense and in each other mode, and with whose dense answers all others are compared
    /// instead: the same one in another precision.
    pub reference: Option<PruningVit>,
}

impl EvaluationSettings {
    /// As the run's own evaluations, with this selection removed.
    pub fn of(run: &RunFolder, selection: Selection) -> Self {
        Self {
            selection,
            batch_size: run.config.train.eval_batch_size,
            normalization: run.description().normalization,
            transform: run.description().transform,
            workers: run.config.train.num_workers,
            compare: false,
            reference: None,
        }
    }

    /// As a model wants its images, in batches of so many; its answers are compared with the dense ones.
    pub fn for_model(model: &Model, selection: Selection, batch_size: usize) -> Self {
        let description = model.description();
        Self {
            selection,
            batch_size,
            normalization: description.normalization,
            transform: description.transform,
            workers: 1,
            compare: true,
            reference: None,
        }
    }
}
