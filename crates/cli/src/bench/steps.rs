//! Whole training steps, as the trainer makes them.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use apt_data::{Batch, Place};
use apt_rl_trainer::{ExperimentConfig, Trainee, stepper};
use burn::tensor::{Int, Tensor, TensorData};

use super::clock::Case;
use super::parts::{WHOLE, targets};
use super::subject::{Removed, Subject};

/// A training for one budget.
pub struct Training {
    config: ExperimentConfig,
    pub target_flops: Option<f64>,
    flops_share: Cell<Option<f64>>,
}

/// The trainings whose steps are timed: none where the published one is, which has its parts.
pub fn trainings(subject: &Subject) -> Vec<Training> {
    let training = |target_flops: Option<f64>| {
        let mut config = subject.config.clone();
        config.flops = target_flops.into_iter().collect();
        // An update after each pass.
        config.train.grad_accumulation_steps = 1;
        Training {
            config,
            target_flops,
            flops_share: Cell::new(None),
        }
    };
    match (&subject.policy, &subject.removed) {
        (None, _) => Vec::new(),
        (Some(_), Removed::ToCompute(shares)) => {
            shares.iter().map(|&share| training(Some(share))).collect()
        }
        (Some(_), _) => vec![training(None)],
    }
}

impl Training {
    /// Its steps on random images, one after the other, the model learning. A round has as many as it takes until
    /// they cost the same again.
    pub fn case<'a>(
        &'a self,
        model: Trainee,
        images: &Tensor<4>,
        folder: &Path,
    ) -> Result<Case<'a>> {
        let batch = images.dims()[0];
        let targets = targets(model.config().num_classes, batch);
        let labels: Vec<i64> = targets.iter().map(|&target| target as i64).collect();
        let labels = TensorData::new(labels, [batch]);
        let labels = Tensor::<1, Int>::from_data(labels, &images.device());
        let (images, device) = (images.clone(), images.device());
        let mut step = stepper(&self.config, model, folder)?;
        let mut number = 0;
        let cycle = self.cycle()?;
        let case = Case::new(WHOLE, move || {
            for _ in 0..cycle {
                let report = step(Batch {
                    images: images.clone(),
                    labels: labels.clone(),
                    targets: targets.clone(),
                    indices: (0..batch).collect(),
                    place: Place {
                        number,
                        part: 0..batch,
                        whole: batch,
                    },
                })?;
                number += 1;
                self.flops_share
                    .set(report.values.get("flops_share").copied());
            }
            Ok(device.sync()?)
        });
        Ok(case.of_passes(cycle))
    }

    /// After so many steps they cost the same again: the policy may learn in some of them alone, and algorithms may
    /// learn from what they did several times.
    fn cycle(&self) -> Result<usize> {
        let train = &self.config.train;
        let dense = train.dense_interval.unwrap_or(1);
        let algorithm = self.config.policy.algorithm.as_ref();
        let period = match algorithm.map(|algorithm| algorithm.init()) {
            Some(algorithm) => {
                let algorithm = algorithm.map_err(Error::msg)?;
                train.agent_interval * algorithm.period()
            }
            None => 1,
        };
        Ok(dense * period)
    }

    /// What the training says.
    pub fn config(&self) -> &ExperimentConfig {
        &self.config
    }

    /// Counted in the last step that was made.
    pub fn flops_share(&self) -> Option<f64> {
        self.flops_share.get()
    }
}

/// A folder for what a training has to write.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("aptvit-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
