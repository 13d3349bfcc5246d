//! Training steps outside of a training, to be timed.

use std::path::Path;
use std::sync::Arc;

use apt_data::Batch;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::Module;
use burn::train::TrainStep;

use super::loss_scale::LossScale;
use super::optimizer::build_optimizer;
use super::schedule::WarmupSchedule;
use super::session::Session;
use super::settings::StepSettings;
use super::stop::{Stop, StopRequest};
use super::trainee::{Trainee, init_algorithm};
use crate::TrainerError;
use crate::config::ExperimentConfig;
use crate::log::Report;
use crate::run::CheckpointWriter;

/// A training's own step, outside of its loop: each call learns from one batch, and nothing is logged or saved. It is
/// there to be timed. `folder` is for the loss scale of `f16`.
///
/// # Errors
///
/// Where a budget cannot be met; of a step, where its loss or its gradients are no numbers.
pub fn stepper(
    config: &ExperimentConfig,
    model: Trainee,
    folder: &Path,
) -> Result<impl FnMut(Batch) -> Result<Report, TrainerError> + use<>, TrainerError> {
    let session = Arc::new(Session::new(
        StepSettings::new(config, &model.pruning())?,
        init_algorithm(config)?,
        0,
        Stop::new(StopRequest::default(), None),
        CheckpointWriter::new(folder.to_path_buf(), config.train.eval_interval),
        LossScale::open(config.train.dtype, folder, 0)?,
        model.devices().first().cloned().unwrap_or_default(),
    ));
    let mut optimizer = build_optimizer(&config.optimizer, &model);
    let schedule = WarmupSchedule::new(&config.optimizer, &config.schedule, config.train.steps);
    let mut rates = ModuleLrScheduler::new(schedule);
    let mut model = model.with_session(session.clone());
    Ok(move |batch| {
        let output = TrainStep::step(&model, batch);
        let learned = model.clone();
        model = learned.optimize(&mut optimizer, rates.step(), output.grads);
        match session.stop.take_failure() {
            Some(error) => Err(error),
            None => Ok(output.item),
        }
    })
}
