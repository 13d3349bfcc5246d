//! burn-train's loop around the training step.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use apt_data::{EvalLoader, LoaderSettings, TrainLoader};
use apt_inference::{CheckpointSet, Choice};
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::train::renderer::MetricsRenderer;
use burn::train::{Learner, SupervisedTraining, TrainingError};

use super::images::Images;
use super::loss_scale::LossScale;
use super::optimizer::build_optimizer;
use super::options::{Outcome, TrainOptions, Trained};
use super::retention::{Patience, Retention};
use super::session::Session;
use super::settings::StepSettings;
use super::stop::Stop;
use super::trainee::{Trainee, init_algorithm};
use crate::TrainerError;
use crate::config::ExperimentConfig;
use crate::evaluate::sides;
use crate::log::{Dashboard, PlainRenderer, ReportMetric, RunLog, screen};
use crate::run::RunFolder;

/// Trains `model` on the run's images, from its start or from a checkpoint on.
pub(super) fn fit(
    run: RunFolder,
    model: Trainee,
    images: &Images,
    from: Option<CheckpointSet>,
    options: &TrainOptions,
) -> Result<Trained, TrainerError> {
    let config = &run.config;
    let settings = &config.train;
    let steps_done = from.as_ref().map_or(0, |set| set.step);
    let checkpoints = run.checkpoint_writer();
    if steps_done < settings.steps as u64 {
        let session = Arc::new(Session::new(
            StepSettings::new(config, &model.pruning())?,
            init_algorithm(config)?,
            steps_done,
            Stop::new(options.stop.clone(), options.time_limit),
            checkpoints.clone(),
            LossScale::open(settings.dtype, run.path(), steps_done)?,
            options.devices.main().clone(),
        ));
        launch(
            &run,
            model.with_session(session.clone()),
            images,
            from,
            options,
            &session,
        )?;
        if let Some((reason, checkpoint)) = session.stop.paused() {
            return Ok(Trained::Paused(Outcome::Paused {
                reason,
                checkpoint,
                step: session.progress.steps(),
                steps: settings.steps,
            }));
        }
        let mut epochs = Vec::new();
        for choice in [Choice::BestPruned, Choice::BestDense, Choice::Last] {
            // Where it is not known which is the best, nothing is removed.
            epochs.extend(run.checkpoints().choose(choice)?.epoch);
        }
        checkpoints.keep_epochs(&epochs)?;
        checkpoints.remove_pauses_before(session.progress.steps() + 1)?;
    }
    Ok(Trained::Finished(Box::new(run)))
}

/// The dashboard, where it is asked for and there is a terminal; else plain lines.
fn renderer(config: &ExperimentConfig, options: &TrainOptions) -> Box<dyn MetricsRenderer> {
    if options.dashboard {
        let steps = config.train.eval_interval;
        if let Ok(dashboard) = Dashboard::open(title(config), steps, options.stop.clone()) {
            return Box::new(dashboard);
        }
    }
    Box::new(PlainRenderer::new(options.stop.clone()))
}

/// What is trained, in a line.
fn title(config: &ExperimentConfig) -> String {
    let (model, policy) = (&config.model.preset, &config.policy);
    let learned = match &policy.algorithm {
        Some(algorithm) => format!(" learned by {}", algorithm.entry().name),
        None => String::new(),
    };
    let budgets: Vec<String> = config
        .flops
        .iter()
        .map(|share| format!("{:.0}%", share * 100.0))
        .collect();
    let budget = if budgets.is_empty() {
        "no budget: the policy removes what it wants".into()
    } else {
        format!("budget {} of the dense FLOPs", budgets.join(", "))
    };
    format!(
        "{model}, policy {}{learned}, {budget}",
        policy.policy.name()
    )
}

/// Runs burn-train's loop to its end, to a pause or to an error.
fn launch(
    run: &RunFolder,
    model: Trainee,
    images: &Images,
    from: Option<CheckpointSet>,
    options: &TrainOptions,
    session: &Arc<Session>,
) -> Result<(), TrainerError> {
    let heeded = options.stop.heed();
    let config = &run.config;
    let settings = &config.train;
    let accumulation = settings.grad_accumulation_steps;
    let parts = options.devices.devices.len();
    let loader = TrainLoader::new(
        images.train.clone(),
        LoaderSettings {
            batch_size: settings.batch_size,
            image_size: sides(model.config().image_size),
            transform: config.input.transform,
            normalization: config.input.normalization,
            seed: config.seed,
            workers: settings.num_workers,
        },
        settings.eval_interval * accumulation,
        session.progress.steps() * accumulation as u64,
    );
    let held_out = EvalLoader::new(
        images.held_out.clone(),
        settings.eval_batch_size,
        sides(model.config().image_size),
        config.input.normalization,
        settings.num_workers,
    );
    let log = RunLog::open(
        run.path(),
        session.progress.steps(),
        (accumulation * parts) as u64,
        settings.eval_interval as u64,
        run.checkpoints(),
    )?;
    let [for_model, for_optimizer, for_scheduler] =
        run.checkpoint_writer().checkpointers(from.as_ref());
    let mut training = SupervisedTraining::new(run.path(), Arc::new(loader), Arc::new(held_out))
        .with_application_logger(None)
        .with_interrupter(session.stop.interrupter.clone())
        .with_metric_logger(log)
        .renderer(renderer(config, options))
        .with_training_strategy(options.devices.strategy().into())
        .with_custom_checkpointers(for_model, for_optimizer, for_scheduler)
        .with_checkpointing_strategy(Retention::new(run.checkpoints()))
        .num_epochs(config.num_epochs());
    if accumulation > 1 {
        training = training.grads_accumulation(accumulation);
    }
    if let Some(set) = &from {
        training = training.checkpoint(set.step as usize / settings.eval_interval);
    }
    if let Some(patience) = settings.patience {
        training = training.early_stopping(Patience::new(run.checkpoints(), patience));
    }
    training = training
        .metrics((
            ReportMetric::new("loss", false),
            ReportMetric::new("pruned_accuracy", true),
            ReportMetric::new("dense_accuracy", true),
            ReportMetric::new("flops_share", false),
        ))
        .metric_train_numeric(ReportMetric::new("images_per_s", true))
        .metric_train_numeric(ReportMetric::new("gradient_norm", false))
        .metric_train_numeric(ReportMetric::new("peak_memory_mib", false))
        .metric_train_numeric(ReportMetric::new("learning_rate", false));
    for layer in model.policy.blocks() {
        let metric = |name: &str, higher| ReportMetric::new(&format!("{name}/{layer}"), higher);
        training = training.metrics((metric("keep_rate", false),));
        if session.algorithm.is_some() {
            training = training
                .metric_train_numeric(metric("reward", true))
                .metric_train_numeric(metric("positive", true))
                .metric_train_numeric(metric("agent_loss", false));
        }
    }

    let optimizer = build_optimizer(&config.optimizer, &model);
    let schedule = session.settings.schedule.clone();
    let schedule = schedule.with_norm(session.progress.norm().clone());
    let learner = Learner::new(model, optimizer, ModuleLrScheduler::new(schedule));
    // Backends say by panics that memory is short or that a device is gone.
    let launched = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let result = training.launch(learner);
        drop(result.renderer);
        result.error
    }));
    drop(heeded);
    // After a panic the dashboard may still have the terminal, and an error has to be seen.
    screen::give_back();
    let newest = || -> Result<String, TrainerError> {
        let newest = run.checkpoints().newest_complete()?;
        Ok(newest.map_or("none yet".into(), |set| set.name()))
    };
    if let Some(mut error) = session.stop.take_failure() {
        if let TrainerError::Diverged { checkpoint, .. } = &mut error {
            *checkpoint = newest()?;
        }
        return Err(error);
    }
    match launched {
        Ok(None) => Ok(()),
        Ok(Some(error)) => {
            let of_device =
                matches!(*error, TrainingError::Workers(_)) || error.is_device_poisoned();
            Err(if of_device {
                TrainerError::of_device(&error.to_string(), newest()?)
            } else {
                TrainerError::Training(error.to_string())
            })
        }
        Err(payload) => Err(TrainerError::of_panic(&*payload, newest()?)),
    }
}
