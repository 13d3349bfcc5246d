//! burn-train's strategies by the saved scores: which checkpoints stay, and when a training has stopped improving. A log may
//! be damaged or gone; what it says decides on nothing.

use apt_inference::{CheckpointFolder, InferenceError};
use burn::train::EarlyStoppingStrategy;
use burn::train::checkpoint::{CheckpointingAction, CheckpointingStrategy};
use burn::train::metric::store::{Aggregate, EventStoreClient, Split};

/// Keeps the checkpoints of the two newest epochs and of the best ones, and any whose scores are not known.
pub(super) struct Retention {
    checkpoints: CheckpointFolder,
}

impl Retention {
    pub fn new(checkpoints: CheckpointFolder) -> Self {
        Self { checkpoints }
    }

    /// Epochs whose checkpoints are not needed any more.
    fn overtaken(&self, epoch: usize) -> Result<Vec<usize>, InferenceError> {
        let scores = self.checkpoints.scores()?;
        let best = self.checkpoints.best_epochs(epoch)?;
        let there = self.checkpoints.all()?.into_iter();
        let overtaken = there.filter_map(|set| set.epoch).filter(|found| {
            found + 1 < epoch && scores.contains_key(found) && !best.contains(found)
        });
        Ok(overtaken.collect())
    }
}

impl CheckpointingStrategy for Retention {
    fn checkpointing(
        &mut self,
        epoch: usize,
        store: &EventStoreClient,
    ) -> Vec<CheckpointingAction> {
        wait_for_scores(epoch, store);
        let overtaken = self.overtaken(epoch).unwrap_or_else(|error| {
            tracing::warn!("no checkpoint is removed: {error}");
            Vec::new()
        });
        let removed = overtaken.into_iter().map(CheckpointingAction::Delete);
        std::iter::once(CheckpointingAction::Save)
            .chain(removed)
            .collect()
    }
}

/// Ends a training after so many epochs that were no better than an earlier one with the policy acting.
#[derive(Clone)]
pub(super) struct Patience {
    checkpoints: CheckpointFolder,
    epochs: usize,
}

impl Patience {
    pub fn new(checkpoints: CheckpointFolder, epochs: usize) -> Self {
        Self {
            checkpoints,
            epochs,
        }
    }
}

impl EarlyStoppingStrategy for Patience {
    fn should_stop(&mut self, epoch: usize, store: &EventStoreClient) -> bool {
        wait_for_scores(epoch, store);
        match self.checkpoints.best_epochs(epoch) {
            Ok(best) => best
                .first()
                .is_some_and(|pruned| epoch - pruned >= self.epochs),
            Err(error) => {
                tracing::warn!("train.patience is not heeded: {error}");
                false
            }
        }
    }
}

/// The scores are saved by a thread that does one thing after the other: once it answers, they are.
fn wait_for_scores(epoch: usize, store: &EventStoreClient) {
    let _ = store.find_metric("pruned_accuracy", epoch, Aggregate::Mean, &Split::Valid);
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_inference::EpochScores;

    #[test]
    fn the_best_by_the_saved_scores_and_the_two_newest_stay() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointFolder::new(folder.path().to_path_buf(), 10);
        let there = |epochs: &[usize]| {
            for epoch in epochs {
                std::fs::write(folder.path().join(format!("model-{epoch}.bpk")), "").unwrap();
            }
        };
        there(&[1, 2, 3, 4, 5]);
        for (epoch, dense, pruned) in [(1, 0.1, 0.1), (2, 0.2, 0.9), (3, 0.8, 0.3), (5, 0.1, 0.1)] {
            let scores = EpochScores {
                dense_accuracy: dense,
                pruned_accuracy: pruned,
            };
            checkpoints.save_scores(epoch, scores).unwrap();
        }
        let retention = Retention::new(checkpoints);
        assert_eq!(retention.overtaken(5).unwrap(), [1]);
        // An epoch without scores may be the best one.
        assert_eq!(retention.overtaken(7).unwrap(), [1, 5]);
        std::fs::write(folder.path().join("scores.json"), "{").unwrap();
        assert!(retention.overtaken(7).is_err());
    }
}
