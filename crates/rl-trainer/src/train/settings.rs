//! What a training step has to know of the training.

use apt_data::mix_seed;
use apt_inference::PruningVit;
use apt_pruning_agent::{Agents, AnyPolicy, Selection};

use super::freeze::backward_share;
use super::schedule::WarmupSchedule;
use crate::TrainerError;
use crate::algorithm::Purpose;
use crate::config::ExperimentConfig;

/// What a training step has to know of the training.
#[derive(Clone, Debug)]
pub(crate) struct StepSettings {
    pub seed: u64,
    /// How much goes: where there are several, one is drawn for each pass.
    pub selections: Vec<Selection>,
    pub distillation_weight: f32,
    pub accumulation: usize,
    pub agent_interval: u64,
    /// Forward passes before the policy learns.
    pub dense_passes: u64,
    /// Forward passes before the policy acts.
    pub passive_passes: u64,
    /// So many passes apart, the model's own pass is dense.
    pub dense_interval: Option<u64>,
    pub max_grad_norm: f32,
    /// What the head's and the policy's learning rate is of the backbone's.
    pub head_factor: f64,
    pub agent_factor: f64,
    pub eval_interval: u64,
    pub images_per_step: usize,
    pub recompute: bool,
    /// FLOPs of the backward pass, relative to those of the model's own forward pass.
    pub backward_share: f64,
    /// The learning rate of each step.
    pub schedule: WarmupSchedule,
}

impl StepSettings {
    /// # Errors
    ///
    /// Where the policy cannot meet a budget.
    pub fn new(config: &ExperimentConfig, model: &PruningVit) -> Result<Self, TrainerError> {
        let (settings, optimizer) = (&config.train, &config.optimizer);
        let accumulation = settings.grad_accumulation_steps;
        let passes = |steps: usize| (steps * accumulation) as u64;
        let factor = |rate: Option<f64>| rate.map_or(1.0, |rate| rate / optimizer.learning_rate);
        Ok(Self {
            seed: config.seed,
            selections: selections(config, model)?,
            distillation_weight: settings.distillation_weight as f32,
            accumulation,
            agent_interval: settings.agent_interval as u64,
            dense_passes: passes(settings.dense_steps),
            passive_passes: passes(settings.dense_steps + settings.agent_warmup_steps),
            dense_interval: settings.dense_interval.map(|every| every as u64),
            max_grad_norm: settings.max_grad_norm,
            head_factor: factor(optimizer.head_learning_rate),
            agent_factor: factor(optimizer.agent_learning_rate),
            eval_interval: settings.eval_interval as u64,
            images_per_step: settings.batch_size * accumulation,
            recompute: settings.gradient_checkpointing,
            backward_share: backward_share(
                settings.freeze,
                model.config(),
                settings.gradient_checkpointing,
                observed_block(config, &model.policy),
            ),
            schedule: WarmupSchedule::new(optimizer, &config.schedule, settings.steps),
        })
    }

    /// How much goes in this forward pass.
    pub fn selection(&self, pass: u64) -> &Selection {
        let drawn = mix_seed(&[self.seed, Purpose::Budget as u64, pass]);
        &self.selections[(drawn % self.selections.len() as u64) as usize]
    }

    /// How much goes where the model is judged between two epochs.
    pub fn usual_selection(&self) -> &Selection {
        &self.selections[0]
    }

    /// Is the model's own pass dense in this forward pass?
    pub fn is_dense(&self, pass: u64) -> bool {
        let between = self
            .dense_interval
            .is_some_and(|every| pass % every == every - 1);
        pass < self.passive_passes || between
    }

    /// The learning rate of the update that this forward pass goes into.
    pub fn learning_rate(&self, pass: u64) -> f64 {
        let update = pass / self.accumulation as u64 + 1;
        self.schedule.learning_rate(update as usize)
    }

    /// Does the policy learn in this forward pass?
    pub fn policy_learns(&self, pass: u64) -> bool {
        pass >= self.dense_passes && pass.is_multiple_of(self.agent_interval)
    }
}

/// The first block of a policy that learns from the gradients of what it sees.
pub(super) fn observed_block(config: &ExperimentConfig, policy: &AnyPolicy) -> Option<usize> {
    let algorithm = config.policy.algorithm.as_ref()?;
    let first = policy.blocks().first().copied();
    first.filter(|_| algorithm.entry().learns_from_backward)
}

/// What meets each of the budgets in training, or what the policy removes without one. Adaptive agents share a batch's
/// tokens among its images.
fn selections(
    config: &ExperimentConfig,
    model: &PruningVit,
) -> Result<Vec<Selection>, TrainerError> {
    if config.flops.is_empty() {
        return Ok(vec![config.policy.policy.without_budget()]);
    }
    let adaptive = model.policy.agents().is_some_and(Agents::is_adaptive);
    let selections = config.flops.iter().map(|&share| {
        let kept = model.kept_for(share)?;
        Ok(if adaptive {
            Selection::KeptOfBatch { kept }
        } else {
            Selection::Kept { kept }
        })
    });
    selections.collect()
}
