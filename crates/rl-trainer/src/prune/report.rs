//! What came of a pruning.

use std::path::PathBuf;

use apt_inference::Fidelity;
use serde::Serialize;

use crate::evaluate::Evaluation;

/// A row of the table at the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PruneRow {
    /// `dense`, or the policy's name.
    pub policy: String,
    /// The share that was asked for.
    pub target_flops: Option<f64>,
    /// Counted, mean over the images.
    pub flops_share: f64,
    /// KL(dense || pruned) in nats, mean over the images.
    pub kl: Option<f64>,
    /// The cosine of dense and pruned features, mean over the images, of a model without classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Share of the images whose answer is the dense one.
    pub equal_answers: Option<f64>,
    /// Timed.
    pub images_per_s: f64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PruneReport {
    /// The folder.
    pub folder: PathBuf,
    /// The policy's name.
    pub policy: String,
    /// Why it is this one.
    pub why: String,
    /// Images that were learned from; none where nothing was learned.
    pub learned_from: usize,
    /// What was replaced in all images, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupted: Option<String>,
    /// Images that budgets were fitted on.
    pub held_out: usize,
    /// Seconds in all.
    pub seconds: f64,
    /// On held-out images.
    pub rows: Vec<PruneRow>,
}

/// The row of a policy.
pub(crate) fn row(policy: &str, target_flops: Option<f64>, found: &Evaluation) -> PruneRow {
    let fidelity = found.fidelity.as_ref();
    PruneRow {
        policy: policy.into(),
        target_flops,
        flops_share: found.flops_share,
        kl: fidelity.and_then(Fidelity::kl),
        cosine: fidelity.and_then(Fidelity::cosine),
        equal_answers: fidelity.and_then(Fidelity::equal_answers),
        images_per_s: found.images_per_s,
    }
}
