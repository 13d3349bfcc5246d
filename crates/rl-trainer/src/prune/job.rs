//! What the steps of a pruning share.

use std::time::Instant;

use apt_inference::{Description, PruningVit};
use apt_pruning_agent::Selection;
use burn::prelude::*;

use super::request::{PruneOptions, PruneProgress};
use crate::evaluate::EvaluationSettings;

/// What the exported budgets belong to.
pub(super) const CHECKPOINT: &str = "pruned";
/// One in so many images is held out.
const HELD_OUT: usize = 5;

/// Is this image held out from learning, so that budgets can be fitted on it?
pub(super) fn is_held_out(image: usize) -> bool {
    image % HELD_OUT == HELD_OUT - 1
}

/// What all steps need.
pub(super) struct Job<'a> {
    /// The model as it was loaded.
    pub model: &'a PruningVit,
    /// The model, laid out for inference.
    pub packed: PruningVit,
    pub description: &'a Description,
    pub options: &'a PruneOptions,
    pub device: &'a Device,
    pub progress: &'a (dyn Fn(PruneProgress<'_>) + Sync),
    pub deadline: Option<Instant>,
}

impl Job<'_> {
    pub fn settings(&self, batch_size: usize) -> EvaluationSettings {
        EvaluationSettings {
            selection: Selection::All,
            batch_size,
            normalization: self.description.normalization,
            transform: self.description.transform,
            workers: 1,
            compare: true,
            reference: None,
        }
    }

    /// Is there time for what begins when this share of it is over, and has nobody asked to stop?
    pub fn goes_on(&self, share_of_time: f64) -> bool {
        let limit = self.options.time_limit.zip(self.deadline);
        let in_time = limit.is_none_or(|(limit, deadline)| {
            Instant::now() + limit.mul_f64(1.0 - share_of_time) < deadline
        });
        in_time && !self.options.stop.is_requested()
    }
}
