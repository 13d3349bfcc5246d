//! A training under way: its settings, how far it is, and whether it has to stop.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::Device;

use super::loss_scale::{LossScale, Update};
use super::progress::Progress;
use super::settings::StepSettings;
use super::stop::Stop;
use crate::TrainerError;
use crate::algorithm::Algorithm;
use crate::run::CheckpointWriter;

/// What the training steps of one training share.
pub(crate) struct Session {
    pub settings: StepSettings,
    /// How the policy learns; none where there is nothing to learn.
    pub algorithm: Option<Box<dyn Algorithm>>,
    pub progress: Progress,
    pub stop: Stop,
    pub checkpoints: CheckpointWriter,
    /// The device whose steps count, where each holds the optimiser.
    pub main_device: Device,
    loss_scale: Mutex<LossScale>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("settings", &self.settings)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub fn new(
        settings: StepSettings,
        algorithm: Option<Box<dyn Algorithm>>,
        steps_done: u64,
        stop: Stop,
        checkpoints: CheckpointWriter,
        loss_scale: LossScale,
        main_device: Device,
    ) -> Self {
        Self {
            settings,
            algorithm,
            progress: Progress::of(steps_done),
            stop,
            checkpoints,
            main_device,
            loss_scale: Mutex::new(loss_scale),
        }
    }

    /// What losses are multiplied by before their backward pass.
    pub fn loss_scale(&self) -> f32 {
        self.lock_scale().get()
    }

    fn lock_scale(&self) -> MutexGuard<'_, LossScale> {
        self.loss_scale
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Are the gradients, of this joint norm, to change the weights?
    pub fn accept(&self, norm: f32) -> bool {
        let step = self.progress.steps() + 1;
        let update = self.lock_scale().update(step, !norm.is_finite());
        match update {
            Ok(Update::Apply) => true,
            Ok(Update::Skip) => false,
            Ok(Update::Diverged) => {
                self.fail_diverged(step, norm);
                false
            }
            Err(error) => {
                self.stop.fail(error);
                false
            }
        }
    }

    /// The training fails where the loss of a batch is no number.
    pub fn check_loss(&self, loss: f64, batch: u64) {
        if !loss.is_finite() {
            let step = batch / self.settings.accumulation as u64 + 1;
            self.fail_diverged(step, loss as f32);
        }
    }

    fn fail_diverged(&self, step: u64, loss: f32) {
        // Which checkpoint is the newest is known once their threads have ended.
        let checkpoint = String::new();
        self.stop.fail(TrainerError::Diverged {
            step,
            loss,
            checkpoint,
        });
    }
}
