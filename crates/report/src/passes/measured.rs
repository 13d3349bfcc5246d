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
    /// Of the median batch. Batches take turns with those of the other ways.
    pub images_per_s: f64,
}

/// Sums over batches.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub right: usize,
    pub equal: usize,
    pub kl: f64,
    pub flops: f64,
    /// Seconds per image of each batch.
    pub seconds: Vec<f64>,
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
            images_per_s: 1.0 / median(&self.seconds),
        }
    }
}

/// The middle value; the upper one of two. Not a number if there is none.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_batch_that_was_held_up_does_not_change_the_time() {
        let timed = |seconds: &[f64]| Tally {
            seconds: seconds.to_vec(),
            images: 48,
            ..Tally::default()
        };
        let speed = |tally: Tally| tally.measured(Way::Own, None, false).images_per_s;
        assert_eq!(speed(timed(&[0.01, 0.01, 0.01])), 100.0);
        assert_eq!(speed(timed(&[0.01, 5.0, 0.01])), 100.0);
        assert!(speed(timed(&[])).is_nan());
    }
}
