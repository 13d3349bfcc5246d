//! Trains a run, or goes on with one.

use std::io::Write;
use std::path::{Path, absolute};
use std::time::Instant;

use apt_data::{Progress, Splits};
use apt_inference::{Description, FORMAT};
use burn::tensor::Device;

use super::devices::{check_devices, check_memory};
use super::fit::fit;
use super::images::{Images, load_images, split_images};
use super::options::{Outcome, TrainOptions, Trained};
use super::summary::summarize;
use super::trainee::{Trainee, check_policy};
use crate::TrainerError;
use crate::config::ExperimentConfig;
use crate::run::{RunFolder, checkpoint_to_resume};

/// Trains a new run in `out`.
///
/// # Errors
///
/// Names what went wrong; the last good checkpoint stays.
pub fn train(
    config: ExperimentConfig,
    out: &Path,
    options: &TrainOptions,
) -> Result<Outcome, TrainerError> {
    let config = checked(config)?;
    let splits = config.load_data(options.data.as_deref(), options.progress)?;
    train_checked(splits, config, out, options)
}

/// The same on images that are loaded already.
///
/// # Errors
///
/// As [`train`].
pub fn train_on_splits(
    splits: Splits,
    config: ExperimentConfig,
    out: &Path,
    options: &TrainOptions,
) -> Result<Outcome, TrainerError> {
    train_checked(splits, checked(config)?, out, options)
}

/// The config, complete, and with a policy that fits the model.
fn checked(mut config: ExperimentConfig) -> Result<ExperimentConfig, TrainerError> {
    config.model.complete()?;
    check_policy(&config)?;
    Ok(config)
}

fn train_checked(
    splits: Splits,
    config: ExperimentConfig,
    out: &Path,
    options: &TrainOptions,
) -> Result<Outcome, TrainerError> {
    let images = split_images(&config, splits)?;
    if options.progress == Progress::Bar {
        tell_splits(&images);
    }
    let started = Instant::now();
    let trained = train_on(&images, config, out, options)?;
    measured(trained, &images, options, started)
}

/// Checks what [`train`] checks before its first step: that config, model, policy and images fit together.
///
/// # Errors
///
/// As [`train`].
pub fn check(config: &ExperimentConfig, splits: Splits) -> Result<(), TrainerError> {
    check_policy(config)?;
    split_images(config, splits)?;
    Ok(())
}

/// Says which images are for what.
fn tell_splits(images: &Images) {
    let Images {
        train,
        held_out,
        test,
    } = images;
    // Nobody may be reading.
    let _ = writeln!(
        std::io::stderr(),
        "{} classes; {} images to learn from, {} to choose checkpoints by, {} to judge by",
        train.num_classes(),
        train.len(),
        held_out.len(),
        test.len()
    );
}

/// What the end of a training was worth on the test images.
fn measured(
    trained: Trained,
    images: &Images,
    options: &TrainOptions,
    started: Instant,
) -> Result<Outcome, TrainerError> {
    let run = match trained {
        Trained::Finished(run) => run,
        Trained::Paused(outcome) => return Ok(outcome),
    };
    let summary = summarize(&run, images, &options.devices, started)?;
    run.save_summary(&summary)?;
    Ok(Outcome::Finished(Box::new(summary)))
}

/// The same on images that are loaded already, without measuring the end.
pub(crate) fn train_on(
    images: &Images,
    config: ExperimentConfig,
    out: &Path,
    options: &TrainOptions,
) -> Result<Trained, TrainerError> {
    let classes = images.train.class_names().to_vec();
    let device = options.devices.main().clone().autodiff();
    check_devices(&config, &options.devices)?;
    let model = fresh(&config, classes.len(), &device)?;
    check_memory(&config, &model, options.memory)?;
    let description = Description {
        format: FORMAT,
        model: model.config().clone(),
        policy: config.policy.policy.clone(),
        flops: config.flops.clone(),
        dtype: config.train.dtype,
        class_names: classes,
        normalization: config.input.normalization,
        transform: Default::default(),
        steps_per_epoch: Some(config.train.eval_interval),
        // The run may be continued from another folder.
        data: options
            .data
            .as_deref()
            .map(|path| absolute(path).unwrap_or_else(|_| path.into())),
    };
    let run = RunFolder::create(out, config, description)?;
    fit(run, model, images, None, options)
}

/// The model that a training begins with.
fn fresh(
    config: &ExperimentConfig,
    num_classes: usize,
    device: &Device,
) -> Result<Trainee, TrainerError> {
    let model = Trainee::new(config, num_classes, device)?;
    match &config.model.init_from_run {
        Some(start) => model.starting_from(start),
        None => Ok(model),
    }
}

/// Goes on with the run in `path` from its newest checkpoint; one without a checkpoint starts
/// anew.
///
/// # Errors
///
/// As [`train`], and where the newest checkpoint does not load.
pub fn resume(path: &Path, options: &TrainOptions) -> Result<Outcome, TrainerError> {
    let run = RunFolder::open_to_train(path)?;
    let data = options
        .data
        .as_deref()
        .or(run.description().data.as_deref());
    let images = load_images(&run.config, data, options.progress)?;
    let started = Instant::now();
    measured(resume_on(&images, run, options)?, &images, options, started)
}

/// The same on images that are loaded already, without measuring the end.
pub(crate) fn resume_on(
    images: &Images,
    run: RunFolder,
    options: &TrainOptions,
) -> Result<Trained, TrainerError> {
    let newest = checkpoint_to_resume(&run.checkpoints(), run.config.train.eval_interval)?;
    let found = images.train.class_names();
    if found != run.description().class_names {
        return Err(TrainerError::Field {
            field: "data".into(),
            found: format!("classes {found:?}"),
            expected: format!("the run was trained on {:?}", run.description().class_names),
        });
    }
    let mut config = run.config.clone();
    if newest.is_some() {
        config.model.pretrained = None;
        config.model.init_from_run = None;
    }
    let device = options.devices.main().clone().autodiff();
    check_devices(&config, &options.devices)?;
    let model = fresh(&config, found.len(), &device)?;
    check_memory(&config, &model, options.memory)?;
    fit(run, model, images, newest, options)
}
