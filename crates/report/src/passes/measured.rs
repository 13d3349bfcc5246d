//! What was measured of each way to run a model.

/// What decides which tokens stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing is removed.
    Dense,
    /// The model's own policy.
    Own,
    /// ToMe on the same weights, for comparison: it needs no training.
    Tome,
}

/// What was measured of one way to run a model, over all images.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What decides.
    pub way: Way,
    /// The share of the dense FLOPs that was asked for; `None` without a budget.
    pub target: Option<f64>,
    /// Share of the images that is classified right; `None` for images without labels.
    pub accuracy: Option<f64>,
    /// Share of the answers that are the dense ones.
    pub equal_answers: f64,
    /// KL(dense || pruned) in nats, mean.
    pub kl: f64,
    /// Counted FLOPs as a share of the dense model's, mean.
    pub flops_share: f64,
    /// Timed, in turns with the others.
    pub images_per_s: f64,
}

/// Sums over batches.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub right: usize,
    pub equal: usize,
    pub kl: f64,
    pub flops: f64,
    pub seconds: f64,
    pub timed: usize,
    pub images: usize,
}

impl Tally {
    pub fn measured(&self, way: Way, target: Option<f64>, labelled: bool) -> Measured {
        let share = |part: f64| part / self.images.max(1) as f64;
        Measured {
            way,
            target,
            accuracy: labelled.then(|| share(self.right as f64)),
            equal_answers: share(self.equal as f64),
            kl: share(self.kl),
            flops_share: share(self.flops),
            images_per_s: self.timed as f64 / self.seconds,
        }
    }
}
