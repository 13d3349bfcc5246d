use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use apt_data::mix_seed;
use apt_pruning_agent::{Amount, PolicyConfig};
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;
use burn::train::Interrupter;

use crate::checkpoint::CheckpointFolder;
use crate::config::{AlgorithmConfig, Execution, ExperimentConfig};
use crate::loss_scale::{LossScale, Update};
use crate::model::Purpose;
use crate::ppo::Rollout;
use crate::{PruningVit, TrainerError};

/// Asks a running training to save a checkpoint and stop. Clones ask the same training.
#[derive(Clone, Debug, Default)]
pub struct StopRequest(Arc<AtomicBool>);

impl StopRequest {
    /// Asks.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Was it asked?
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a training stopped before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Somebody asked for it.
    Requested,
    /// Its time was over.
    TimeLimit,
}

/// What a training step has to know of the training.
#[derive(Clone, Debug)]
pub(crate) struct StepSettings {
    pub seed: u64,
    /// How much goes: where there are several, one is drawn for each pass.
    pub amounts: Vec<Amount>,
    pub policy: PolicyConfig,
    pub algorithm: AlgorithmConfig,
    pub distill: f32,
    pub execution: Execution,
    pub accumulation: usize,
    pub agents_every: u64,
    /// Forward passes before agents learn.
    pub dense_passes: u64,
    /// Forward passes before agents act.
    pub passive_passes: u64,
    /// So many passes apart, stream 1 is dense.
    pub dense_every: Option<u64>,
    pub clip_norm: f32,
    /// What the head's and the agents' learning rate is of the backbone's.
    pub head_factor: f64,
    pub agents_factor: f64,
    pub steps_per_epoch: u64,
    pub images_per_step: usize,
    pub recompute: bool,
}

impl StepSettings {
    pub fn new(config: &ExperimentConfig, model: &PruningVit) -> Result<Self, TrainerError> {
        let (settings, optimizer) = (&config.train, &config.optimizer);
        let passes = |steps: usize| (steps * settings.accumulation) as u64;
        let factor = |rate: Option<f64>| rate.map_or(1.0, |rate| rate / optimizer.learning_rate);
        Ok(Self {
            seed: config.seed,
            amounts: model.amounts(config)?,
            policy: config.policy,
            algorithm: config.algorithm.clone(),
            distill: settings.distill as f32,
            execution: settings.execution,
            accumulation: settings.accumulation,
            agents_every: settings.agents_every as u64,
            dense_passes: passes(settings.dense_steps),
            passive_passes: passes(settings.dense_steps + settings.agents_warmup_steps),
            dense_every: settings.dense_every.map(|every| every as u64),
            clip_norm: settings.clip_norm,
            head_factor: factor(optimizer.head_learning_rate),
            agents_factor: factor(optimizer.agents_learning_rate),
            steps_per_epoch: settings.steps_per_epoch as u64,
            images_per_step: settings.batch_size * settings.accumulation,
            recompute: settings.gradient_checkpointing,
        })
    }

    /// How much goes in this forward pass.
    pub fn amount(&self, pass: u64) -> &Amount {
        let drawn = mix_seed(&[self.seed, Purpose::Budget as u64, pass]);
        &self.amounts[(drawn % self.amounts.len() as u64) as usize]
    }

    /// How much goes where the model is judged between two epochs.
    pub fn usual_amount(&self) -> &Amount {
        &self.amounts[self.amounts.len() / 2]
    }

    /// Is stream 1 dense in this forward pass?
    pub fn is_dense(&self, pass: u64) -> bool {
        let between = self
            .dense_every
            .is_some_and(|every| pass % every == every - 1);
        pass < self.passive_passes || between
    }

    /// Do agents learn in this forward pass?
    pub fn agents_learn(&self, pass: u64) -> bool {
        pass >= self.dense_passes && pass.is_multiple_of(self.agents_every)
    }
}

/// A training under way: its settings, how far it is, and whether it has to stop.
pub(crate) struct Session {
    pub settings: StepSettings,
    pub checkpoints: CheckpointFolder,
    /// Stops burn-train's loop.
    pub interrupter: Interrupter,
    /// What the dashboard's own stop key sets.
    pub dashboard: Interrupter,
    /// The device whose steps count, where each holds the optimiser.
    pub main_device: Device,
    pub stop: StopRequest,
    pub deadline: Option<Instant>,
    steps_done: AtomicU64,
    /// Bits of the joint gradient norm of the last update; 0 before the first.
    gradient_norm: AtomicU32,
    /// Bits of the images a second of the last step; 0 in the first.
    images_per_s: AtomicU32,
    last_step: Mutex<Option<Instant>>,
    loss_scale: Mutex<LossScale>,
    /// By the first image of the device's part of a batch: what PPO still learns from, and how often.
    rollouts: Mutex<BTreeMap<usize, (Rollout, usize)>>,
    pause: Mutex<Option<(Pause, PathBuf)>>,
    failure: Mutex<Option<TrainerError>>,
    failed: AtomicBool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub fn new(
        settings: StepSettings,
        checkpoints: CheckpointFolder,
        stop: StopRequest,
        time_limit: Option<Duration>,
        steps_done: u64,
        loss_scale: LossScale,
        main_device: Device,
    ) -> Self {
        Self {
            settings,
            checkpoints,
            interrupter: Interrupter::new(),
            dashboard: Interrupter::new(),
            main_device,
            stop,
            deadline: time_limit.map(|limit| Instant::now() + limit),
            steps_done: AtomicU64::new(steps_done),
            gradient_norm: AtomicU32::new(0),
            images_per_s: AtomicU32::new(0),
            last_step: Mutex::new(None),
            loss_scale: Mutex::new(loss_scale),
            rollouts: Mutex::default(),
            pause: Mutex::new(None),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
        }
    }

    /// The rollout of a part of the batches that is to be learned from again.
    pub fn rollout(&self, part: usize) -> Option<(Rollout, usize)> {
        self.lock_rollouts().remove(&part)
    }

    /// Keeps a rollout to be learned from so many times more.
    pub fn keep_rollout(&self, part: usize, rollout: Rollout, times: usize) {
        if times > 0 {
            self.lock_rollouts().insert(part, (rollout, times));
        }
    }

    fn lock_rollouts(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, (Rollout, usize)>> {
        self.rollouts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn steps_done(&self) -> u64 {
        self.steps_done.load(Ordering::SeqCst)
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Why and with which checkpoint the training paused, if it did.
    pub fn pause(&self) -> Option<(Pause, PathBuf)> {
        self.pause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What made the training fail, if something did.
    pub fn take_failure(&self) -> Option<TrainerError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Images a second of the last step; 0 in the first.
    pub fn images_per_s(&self) -> f64 {
        f64::from(f32::from_bits(self.images_per_s.load(Ordering::Relaxed)))
    }

    fn time_step(&self) {
        let mut last = self
            .last_step
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            let rate = self.settings.images_per_step as f32 / (now - last).as_secs_f32();
            self.images_per_s.store(rate.to_bits(), Ordering::Relaxed);
        }
    }

    /// What losses are multiplied by before their backward pass.
    pub fn loss_scale(&self) -> f32 {
        self.lock_scale().get()
    }

    fn lock_scale(&self) -> std::sync::MutexGuard<'_, LossScale> {
        self.loss_scale
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Are the gradients, of this joint norm, to change the weights?
    pub fn accept(&self, norm: f32) -> bool {
        let step = self.steps_done() + 1;
        let update = self.lock_scale().update(step, !norm.is_finite());
        match update {
            Ok(Update::Apply) => true,
            Ok(Update::Skip) => false,
            Ok(Update::Diverged) => {
                self.fail_diverged(step, norm);
                false
            }
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    pub fn set_gradient_norm(&self, norm: f32) {
        self.gradient_norm.store(norm.to_bits(), Ordering::Relaxed);
    }

    /// The joint gradient norm of the last update, before clipping.
    pub fn gradient_norm(&self) -> f64 {
        f64::from(f32::from_bits(self.gradient_norm.load(Ordering::Relaxed)))
    }

    pub fn check_loss(&self, loss: f64, batch: u64) {
        if !loss.is_finite() {
            let step = batch / self.settings.accumulation as u64 + 1;
            self.fail_diverged(step, loss as f32);
        }
    }

    fn fail_diverged(&self, step: u64, loss: f32) {
        // Which checkpoint is the newest is known once their threads have ended.
        let checkpoint = String::new();
        self.fail(TrainerError::Diverged {
            step,
            loss,
            checkpoint,
        });
    }

    fn fail(&self, error: TrainerError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.failed.store(true, Ordering::SeqCst);
        self.interrupter.stop(Some("failed"));
    }

    /// Counts a step; where the training has to stop, saves a checkpoint of this very step first.
    pub fn finish_step(&self, model: &PruningVit, optimizer: &ModuleOptimizer) {
        if model.devices().first() != Some(&self.main_device) {
            return;
        }
        let step = self.steps_done.fetch_add(1, Ordering::SeqCst) + 1;
        self.time_step();
        // The last step of an epoch has its own evaluation and checkpoint.
        if step.is_multiple_of(self.settings.steps_per_epoch) {
            return;
        }
        let late = self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        let reason = match () {
            () if self.stop.is_requested() || self.dashboard.should_stop() => Pause::Requested,
            () if late => Pause::TimeLimit,
            () => return,
        };
        let record = model.clone().into_record();
        match self
            .checkpoints
            .save_pause(step, record, optimizer.to_record())
        {
            Ok(path) => {
                *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some((reason, path));
                self.interrupter.stop(Some("paused"));
            }
            Err(error) => self.fail(error),
        }
    }
}
