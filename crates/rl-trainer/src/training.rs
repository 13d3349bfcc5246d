use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::{Duration, Instant};

use apt_data::{Batch, EvalLoader, ImageDataset, LoaderSettings, Progress, Splits, TrainLoader};
use apt_pruning_agent::Amount;
use apt_vit_model::ExecutionMode;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::Module;
use burn::tensor::Device;
use burn::train::checkpoint::{
    ComposedCheckpointingStrategy, KeepLastNCheckpoints, MetricCheckpointingStrategy,
};
use burn::train::metric::LearningRateMetric;
use burn::train::metric::store::{Aggregate, Direction, Split};
use burn::train::renderer::MetricsRenderer;
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::{
    Learner, MetricEarlyStoppingStrategy, StoppingCondition, SupervisedTraining, TrainStep,
    TrainingError,
};
use serde::Serialize;

use crate::calibration::{Budget, calibrate};
use crate::checkpoint::{CheckpointFolder, CheckpointSet, is_readable};
use crate::config::ExperimentConfig;
use crate::devices::{Devices, check_devices, check_memory};
use crate::evaluation::{Evaluation, EvaluationSettings, LayerTokens, evaluate, sides};
use crate::loss_scale::LossScale;
use crate::metric_log::RunLog;
use crate::optimizer::build_optimizer;
use crate::plain_renderer::PlainRenderer;
use crate::report::ReportMetric;
use crate::run_folder::{Choice, RunDescription, RunFolder, to_json};
use crate::schedule::WarmupSchedule;
use crate::session::{Pause, Session, StepSettings, StopRequest};
use crate::{PruningVit, Report, TrainerError, peak_memory};

/// What a training needs beside its config.
pub struct TrainOptions {
    /// The user's data; where absent, what a resumed run had, or downloaded or generated.
    pub data: Option<PathBuf>,
    /// Where it runs.
    pub devices: Devices,
    /// The memory that there is, in bytes: a training that needs more is refused. Of a GPU it is
    /// not known.
    pub memory: Option<u64>,
    /// Stop after so long, with a checkpoint.
    pub time_limit: Option<Duration>,
    /// Asks the training to stop.
    pub stop: StopRequest,
    /// Show burn-train's dashboard (on a terminal) or plain lines.
    pub dashboard: bool,
    /// Bars for loading and evaluation.
    pub progress: Progress,
}

/// How a training ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// All of it was done, and measured on the test images.
    Finished(Box<Summary>),
    /// It stopped before, with a checkpoint from which it can go on.
    Paused {
        /// Why.
        reason: Pause,
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Steps done.
        step: u64,
        /// Steps to do in all.
        steps: usize,
    },
}

/// A timed throughput of the same model both ways, in images per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Nothing is removed.
    pub dense: f64,
    /// Removed tokens are dropped.
    pub pruned: f64,
}

/// `summary.json`: one checkpoint on the test images, dense and pruned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Share of test images classified right by the dense model.
    pub dense_accuracy: f64,
    /// The same with the agents acting.
    pub pruned_accuracy: f64,
    /// Counted: FLOPs of the pruned model, agents included, by those of the dense one.
    pub flops_share: f64,
    /// Mean tokens after each agent layer, CLS counted.
    pub tokens_per_layer: Vec<f64>,
    /// What each agent left, in more detail.
    pub layers: Vec<LayerTokens>,
    /// Timed on the test images, in turn; batches of `eval_batch_size`.
    pub images_per_s: Throughput,
    /// Images of a timed forward pass.
    pub eval_batch_size: usize,
    /// Seconds of this training, since its start or its last resume.
    pub seconds: f64,
    /// Steps done.
    pub steps: u64,
    /// Images that the model has learned from.
    pub image_passes: u64,
    /// Test images.
    pub test_images: usize,
    /// The checkpoint that was measured.
    pub checkpoint: String,
    /// The seed.
    pub seed: u64,
    /// The device.
    pub device: String,
    /// Threads that compute.
    pub threads: usize,
    /// The most memory that this process had, in bytes, where the system says it; what a GPU has
    /// of its own is not in it.
    pub peak_memory: Option<u64>,
    /// Parameters of model and agents.
    pub parameters: usize,
    /// Version of this program.
    pub version: &'static str,
    /// Version of Burn.
    pub burn_version: &'static str,
}

/// Training images, held-out images, test images.
pub(crate) struct Images {
    pub train: ImageDataset,
    pub held_out: ImageDataset,
    pub test: ImageDataset,
}

pub(crate) fn load_images(
    config: &ExperimentConfig,
    data: Option<&Path>,
    options: &TrainOptions,
) -> Result<Images, TrainerError> {
    split_images(config, config.data.load(data, options.progress)?)
}

/// Holds images out, and takes as many as the config asks for.
pub(crate) fn split_images(
    config: &ExperimentConfig,
    splits: Splits,
) -> Result<Images, TrainerError> {
    let Splits { train, test } = splits;
    let held_out = config.train.held_out;
    if train.len() <= held_out {
        return Err(TrainerError::Field {
            field: "train.held_out".into(),
            found: held_out.to_string(),
            expected: format!(
                "must be below the {} training images there are",
                train.len()
            ),
        });
    }
    let (train, held_out) = train.hold_out(held_out, config.held_out_seed());
    let limit = |dataset: ImageDataset, count: Option<usize>| match count {
        Some(count) => dataset.take(count),
        None => dataset,
    };
    Ok(Images {
        train: limit(train, config.input.train_images),
        held_out,
        test: limit(test, config.input.test_images),
    })
}

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
    let mut config = config;
    config.model.complete()?;
    let images = load_images(&config, options.data.as_deref(), options)?;
    let started = Instant::now();
    let trained = train_on(&images, config, out, options)?;
    trained.measured(&images, options, started)
}

/// A training that was measured on nothing yet.
pub(crate) enum Trained {
    /// It is over.
    Finished(Box<RunFolder>),
    /// It was stopped before its last step.
    Paused(Outcome),
}

impl Trained {
    fn measured(
        self,
        images: &Images,
        options: &TrainOptions,
        started: Instant,
    ) -> Result<Outcome, TrainerError> {
        let run = match self {
            Self::Finished(run) => run,
            Self::Paused(outcome) => return Ok(outcome),
        };
        let summary = summarize(&run, images, options, started)?;
        run.write("summary.json", &to_json(&summary))?;
        Ok(Outcome::Finished(Box::new(summary)))
    }
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
    let mut model = PruningVit::new(&config, classes.len(), &device)?;
    if let Some(start) = &config.model.start {
        model = model.starting_from(start)?;
    }
    check_memory(&config, &model, options.memory)?;
    let description = RunDescription {
        model: model.config().clone(),
        agent_layers: config.agents.layers.clone(),
        threshold: config.agents.threshold,
        class_names: classes,
        normalization: config.input.normalization,
        // The run may be continued from another folder.
        data: options
            .data
            .as_deref()
            .map(|path| absolute(path).unwrap_or_else(|_| path.into())),
    };
    let run = RunFolder::create(out, config, description)?;
    fit(run, model, images, None, options)
}

/// Goes on with the run in `path` from its newest checkpoint; one without a checkpoint starts
/// anew.
///
/// # Errors
///
/// As [`train`], and where the newest checkpoint does not load.
pub fn resume(path: &Path, options: &TrainOptions) -> Result<Outcome, TrainerError> {
    let run = RunFolder::open(path)?;
    let data = options.data.as_deref().or(run.description.data.as_deref());
    let images = load_images(&run.config, data, options)?;
    let started = Instant::now();
    resume_on(&images, run, options)?.measured(&images, options, started)
}

/// The same on images that are loaded already, without measuring the end.
pub(crate) fn resume_on(
    images: &Images,
    run: RunFolder,
    options: &TrainOptions,
) -> Result<Trained, TrainerError> {
    let newest = run.checkpoints().newest()?;
    if let Some(set) = &newest {
        is_readable(set)?;
    }
    let found = images.train.class_names();
    if found != run.description.class_names {
        return Err(TrainerError::Field {
            field: "data".into(),
            found: format!("classes {found:?}"),
            expected: format!("the run was trained on {:?}", run.description.class_names),
        });
    }
    let mut config = run.config.clone();
    if newest.is_some() {
        config.model.pretrained = None;
    }
    let device = options.devices.main().clone().autodiff();
    check_devices(&config, &options.devices)?;
    let model = PruningVit::new(&config, found.len(), &device)?;
    check_memory(&config, &model, options.memory)?;
    fit(run, model, images, newest, options)
}

fn fit(
    run: RunFolder,
    model: PruningVit,
    images: &Images,
    from: Option<CheckpointSet>,
    options: &TrainOptions,
) -> Result<Trained, TrainerError> {
    let config = &run.config;
    let settings = &config.train;
    let steps_done = from.as_ref().map_or(0, |set| set.step);
    let checkpoints = run.checkpoints();
    if steps_done < settings.steps as u64 {
        let session = Arc::new(Session::new(
            StepSettings::new(config, &model)?,
            checkpoints.clone(),
            options.stop.clone(),
            options.time_limit,
            steps_done,
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
        if let Some((reason, checkpoint)) = session.pause() {
            return Ok(Trained::Paused(Outcome::Paused {
                reason,
                checkpoint,
                step: session.steps_done(),
                steps: settings.steps,
            }));
        }
        let epochs = [Choice::BestPruned, Choice::BestDense, Choice::Last];
        let epochs: Vec<usize> = epochs
            .into_iter()
            .filter_map(|choice| run.checkpoint(choice).ok()?.epoch)
            .collect();
        checkpoints.keep_epochs(&epochs)?;
        checkpoints.remove_pauses_before(session.steps_done() + 1)?;
    }
    Ok(Trained::Finished(Box::new(run)))
}

/// Runs burn-train's loop to its end, to a pause or to an error.
fn launch(
    run: &RunFolder,
    model: PruningVit,
    images: &Images,
    from: Option<CheckpointSet>,
    options: &TrainOptions,
    session: &Arc<Session>,
) -> Result<(), TrainerError> {
    let config = &run.config;
    let settings = &config.train;
    let accumulation = settings.accumulation;
    let parts = options.devices.devices.len();
    let loader = TrainLoader::new(
        images.train.clone(),
        LoaderSettings {
            batch_size: settings.batch_size,
            image_size: sides(model.config().image_size),
            transform: config.input.transform,
            normalization: config.input.normalization,
            seed: config.seed,
            workers: settings.workers,
        },
        settings.steps_per_epoch * accumulation,
        session.steps_done() * accumulation as u64,
    );
    let held_out = EvalLoader::new(
        images.held_out.clone(),
        settings.eval_batch_size,
        sides(model.config().image_size),
        config.input.normalization,
        settings.workers,
    );
    let log = RunLog::open(
        run.path(),
        session.steps_done(),
        (accumulation * parts) as u64,
        settings.steps_per_epoch as u64,
    )?;
    let renderer: Box<dyn MetricsRenderer> = match options.dashboard {
        true => Box::new(TuiMetricsRendererWrapper::new(
            session.dashboard.clone(),
            None,
        )),
        false => Box::new(PlainRenderer::new()),
    };
    let pruned_accuracy = ReportMetric::new("pruned_accuracy", true);
    let dense_accuracy = ReportMetric::new("dense_accuracy", true);
    let best = |metric: &ReportMetric| {
        MetricCheckpointingStrategy::new(metric, Aggregate::Mean, Direction::Highest, Split::Valid)
    };
    let [for_model, for_optimizer, for_scheduler] = run.checkpoints().checkpointers(from.as_ref());
    let mut training = SupervisedTraining::new(run.path(), Arc::new(loader), Arc::new(held_out))
        .with_application_logger(None)
        .with_interrupter(session.interrupter.clone())
        .with_metric_logger(log)
        .renderer(renderer)
        .with_training_strategy(options.devices.strategy().into())
        .with_custom_checkpointers(for_model, for_optimizer, for_scheduler)
        .with_checkpointing_strategy(
            ComposedCheckpointingStrategy::builder()
                .add(KeepLastNCheckpoints::new(2))
                .add(best(&pruned_accuracy))
                .add(best(&dense_accuracy))
                .build(),
        )
        .num_epochs(config.num_epochs());
    if accumulation > 1 {
        training = training.grads_accumulation(accumulation);
    }
    if let Some(set) = &from {
        training = training.checkpoint(set.step as usize / settings.steps_per_epoch);
    }
    if let Some(patience) = settings.patience {
        training = training.early_stopping(MetricEarlyStoppingStrategy::new(
            &pruned_accuracy,
            Aggregate::Mean,
            Direction::Highest,
            Split::Valid,
            StoppingCondition::NoImprovementSince { n_epochs: patience },
        ));
    }
    training = training
        .metrics((
            ReportMetric::new("loss", false),
            pruned_accuracy,
            dense_accuracy,
            ReportMetric::new("flops_share", false),
        ))
        .metric_train_numeric(ReportMetric::new("images_per_s", true))
        .metric_train_numeric(ReportMetric::new("gradient_norm", false))
        .metric_train_numeric(ReportMetric::new("peak_memory_mib", false))
        .metric_train_numeric(LearningRateMetric::new());
    for layer in &config.agents.layers {
        let metric = |name: &str, higher| ReportMetric::new(&format!("{name}/{layer}"), higher);
        training = training
            .metrics((metric("keep_rate", false),))
            .metric_train_numeric(metric("reward", true))
            .metric_train_numeric(metric("positive", true))
            .metric_train_numeric(metric("agent_loss", false));
    }

    let optimizer = build_optimizer(&config.optimizer, &model);
    let schedule = WarmupSchedule::new(&config.optimizer, &config.schedule, settings.steps);
    let learner = Learner::new(model, optimizer, ModuleLrScheduler::new(schedule));
    // Backends say by panics that memory is short or that a device is gone.
    let launched = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let result = training.launch(learner);
        drop(result.renderer);
        result.error
    }));
    let newest = || -> Result<String, TrainerError> {
        let newest = run.checkpoints().newest()?;
        Ok(newest.map_or("none yet".into(), |set| set.folder_name()))
    };
    if let Some(mut error) = session.take_failure() {
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
            Err(match of_device {
                true => TrainerError::of_device(&error.to_string(), newest()?),
                false => TrainerError::Training(error.to_string()),
            })
        }
        Err(payload) => Err(TrainerError::of_panic(&*payload, newest()?)),
    }
}

/// A training's own step, outside of its loop: each call learns from one batch, and nothing is logged or saved. It is
/// there to be timed. `folder` is for the loss scale of `f16`.
///
/// # Errors
///
/// Where a budget cannot be met; of a step, where its loss or its gradients are no numbers.
pub fn stepper(
    config: &ExperimentConfig,
    model: PruningVit,
    folder: &Path,
) -> Result<impl FnMut(Batch) -> Result<Report, TrainerError> + use<>, TrainerError> {
    let session = Arc::new(Session::new(
        StepSettings::new(config, &model)?,
        CheckpointFolder::new(folder.to_path_buf(), config.train.steps_per_epoch),
        StopRequest::default(),
        None,
        0,
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
        match session.take_failure() {
            Some(error) => Err(error),
            None => Ok(output.item),
        }
    })
}

/// Fits the thresholds by which the run's agents meet its budgets, on images held out from training,
/// where the checkpoint has none yet.
///
/// # Errors
///
/// Where a budget cannot be met, or an image cannot be read.
pub fn calibrate_budgets(
    run: &RunFolder,
    model: &PruningVit,
    checkpoint: &CheckpointSet,
    held_out: &ImageDataset,
    device: &Device,
) -> Result<(), TrainerError> {
    if model.counts_tokens() {
        return Ok(());
    }
    let name = checkpoint.folder_name();
    for &target in &run.config.budget.flops {
        if run.amount(model, Some(target), &name).is_ok() {
            continue;
        }
        let amount = Amount::Scores { scores: Vec::new() };
        let settings = EvaluationSettings::of(run, amount);
        let found = calibrate(model, held_out, target, &settings, device, |_| ())?;
        run.save_budget(Budget {
            checkpoint: name.clone(),
            ..found
        })?;
    }
    Ok(())
}

/// Measures the best pruned checkpoint on the test images, dense and pruned.
fn summarize(
    run: &RunFolder,
    images: &Images,
    options: &TrainOptions,
    started: Instant,
) -> Result<Summary, TrainerError> {
    let config = &run.config;
    let checkpoint = run.checkpoint(Choice::BestPruned)?;
    let model = run.load_model(&checkpoint, options.devices.main())?;
    let parameters = model.num_params();
    let model = model.prepack();
    let device = options.devices.main();
    calibrate_budgets(run, &model, &checkpoint, &images.held_out, device)?;
    let amount = run.amount(&model, None, &checkpoint.folder_name())?;
    let settings = EvaluationSettings::of(run, amount);
    let modes = [ExecutionMode::Dense, ExecutionMode::Drop];
    let evaluations = evaluate(&model, &images.test, &modes, &settings, device, |_| ())?;
    let [dense, pruned]: [Evaluation; 2] = evaluations
        .try_into()
        .map_err(|_| TrainerError::Training("the evaluation has another number of modes".into()))?;
    let steps = run.checkpoints().newest()?.map_or(0, |set| set.step);
    let per_step = config.train.batch_size * config.train.accumulation;
    Ok(Summary {
        dense_accuracy: dense.accuracy,
        pruned_accuracy: pruned.accuracy,
        flops_share: pruned.flops_share,
        tokens_per_layer: pruned.layers.iter().map(|layer| layer.tokens).collect(),
        layers: pruned.layers,
        images_per_s: Throughput {
            dense: dense.images_per_s,
            pruned: pruned.images_per_s,
        },
        eval_batch_size: config.train.eval_batch_size,
        seconds: started.elapsed().as_secs_f64(),
        steps,
        image_passes: steps * per_step as u64,
        test_images: images.test.len(),
        checkpoint: checkpoint.folder_name(),
        seed: config.seed,
        device: format!("{:?}", options.devices.devices),
        threads: rayon::current_num_threads(),
        peak_memory: peak_memory(),
        parameters,
        version: env!("CARGO_PKG_VERSION"),
        burn_version: "0.22.1",
    })
}
