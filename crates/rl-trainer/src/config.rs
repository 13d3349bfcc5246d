mod algorithm;
mod model;

use std::path::Path;

use apt_data::{DataSource, Normalization, TrainTransform};
use apt_pruning_agent::{AgentNetwork, Merging, PolicyConfig, PolicyKind, PruningAgentsConfig};
use apt_vit_model::Precision;
use serde::{Deserialize, Serialize};

use crate::TrainerError;

pub use self::algorithm::{AlgorithmConfig, AlgorithmKind, BudgetConfig, LessonKind};
pub use self::model::ModelConfig;

/// One experiment, as a TOML file says it. Every field has a default; a file has to name its
/// `data`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentConfig {
    /// Everything random derives from it.
    #[serde(default)]
    pub seed: u64,
    /// Which images.
    pub data: DataSource,
    /// How they reach the model.
    #[serde(default)]
    pub input: InputConfig,
    /// The model.
    #[serde(default)]
    pub model: ModelConfig,
    /// The agents.
    #[serde(default)]
    pub agents: PruningAgentsConfig,
    /// Who decides which tokens stay.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// What the pruned model may compute.
    #[serde(default)]
    pub budget: BudgetConfig,
    /// How the agents learn.
    #[serde(default)]
    pub algorithm: AlgorithmConfig,
    /// The training loop.
    #[serde(default)]
    pub train: TrainConfig,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The learning rate over the steps.
    #[serde(default)]
    pub schedule: ScheduleConfig,
}

/// `[input]`: what happens to an image before the model sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// Random crop and flip of training images; test images are only resized.
    pub transform: TrainTransform,
    /// Mean and standard deviation of the channels.
    pub normalization: Normalization,
    /// Use only so many training images; all where absent.
    pub train_images: Option<usize>,
    /// Use only so many test images; all where absent.
    pub test_images: Option<usize>,
}

/// How stream 1 runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Execution {
    /// Removed tokens are masked, as published.
    Mask,
    /// Removed tokens are dropped: the same numbers for less work.
    #[default]
    Drop,
}

/// What of the model does not learn. A frozen part has no dropout, and costs no backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"backbone\" or a number of blocks")]
pub enum Freeze {
    /// The patch embedding, the positions and the first so many blocks.
    Blocks(usize),
    /// More than that.
    Part(FrozenPart),
}

/// A part of the model that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrozenPart {
    /// Everything but the head.
    Backbone,
}

/// `[train]`: the loop. The defaults are the published settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: usize,
    /// Images of one forward pass.
    pub batch_size: usize,
    /// Forward passes of one optimiser step.
    pub accumulation: usize,
    /// An evaluation and a checkpoint every so many steps.
    pub steps_per_epoch: usize,
    /// Training images held out to choose checkpoints by.
    pub held_out: usize,
    /// The seed that chooses them; the config's where absent.
    pub held_out_seed: Option<u64>,
    /// How stream 1 runs.
    pub execution: Execution,
    /// The agents learn (streams 0 and 2) in every so-many-th forward pass; 1 is published.
    pub agents_every: usize,
    /// Optimiser steps at the start in which nothing is removed and no agent learns; 0 is
    /// published, where the model starts from pretrained weights. From random weights, agents
    /// learn nothing true of the model before it has learned something of the images.
    pub dense_steps: usize,
    /// Optimiser steps after those in which agents learn, but do not act yet; 0 is published. Agents
    /// that know nothing may remove nearly every token.
    pub agents_warmup_steps: usize,
    /// Stream 1 is dense in every so-many-th forward pass, so that the dense model is trained too;
    /// none is published.
    pub dense_every: Option<usize>,
    /// What of the model does not learn: the backbone, or its first so many blocks; all of it
    /// learns where absent.
    pub freeze: Option<Freeze>,
    /// How much the pruned model also learns to answer as the dense one does (soft targets; Hinton et al.,
    /// "Distilling the Knowledge in a Neural Network", 2015): the weight of that loss; 0 is published.
    pub distill: f64,
    /// The global norm that gradients are clipped to.
    pub clip_norm: f32,
    /// In which floats matrix products are computed: `f32`, `bf16` or `f16`.
    pub dtype: Precision,
    /// Blocks are computed once more in the backward pass instead of being remembered: less memory
    /// for a third more work.
    pub gradient_checkpointing: bool,
    /// Images of one forward pass in evaluations.
    pub eval_batch_size: usize,
    /// Stop where the pruned accuracy has not improved for so many epochs.
    pub patience: Option<usize>,
    /// Threads that load images.
    pub workers: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 50_000,
            batch_size: 24,
            accumulation: 3,
            steps_per_epoch: 500,
            held_out: 2_000,
            held_out_seed: None,
            execution: Execution::Drop,
            agents_every: 1,
            dense_steps: 0,
            agents_warmup_steps: 0,
            dense_every: None,
            freeze: None,
            distill: 0.0,
            clip_norm: 1.0,
            dtype: Precision::F32,
            gradient_checkpointing: false,
            eval_batch_size: 64,
            patience: None,
            workers: 1,
        }
    }
}

/// Which optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum, without dampening: published.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay on matrices.
    Adamw,
}

/// `[optimizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which optimiser.
    pub kind: OptimizerKind,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// The head's peak; the same where absent.
    pub head_learning_rate: Option<f64>,
    /// The agents' peak; the same where absent.
    pub agents_learning_rate: Option<f64>,
    /// Weight decay: of every parameter with `sgd`, of matrices and not of biases, norms, CLS and
    /// positions with `adamw`.
    pub weight_decay: f32,
    /// Momentum of `sgd`.
    pub momentum: f64,
    /// The two averaging factors of `adamw`.
    pub betas: [f32; 2],
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Sgd,
            learning_rate: 0.03,
            head_learning_rate: None,
            agents_learning_rate: None,
            weight_decay: 0.0,
            momentum: 0.9,
            betas: [0.9, 0.999],
        }
    }
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Half a cosine to zero.
    #[default]
    Cosine,
    /// A straight line to zero.
    Linear,
}

/// `[schedule]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Update k of so many has k times the peak divided by so many.
    pub warmup_steps: usize,
    /// What comes then.
    pub decay: Decay,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            warmup_steps: 500,
            decay: Decay::Cosine,
        }
    }
}

impl ExperimentConfig {
    /// Reads a TOML file and applies `key=value` overrides to it.
    ///
    /// # Errors
    ///
    /// Names the file or the override and the key, and the nearest valid key to an unknown one.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainerError> {
        let text = std::fs::read_to_string(path).map_err(TrainerError::io(path, "read"))?;
        Self::parse(&text, &path.display().to_string(), overrides)
    }

    /// Reads TOML text; `origin` is what errors call it.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, TrainerError> {
        let refuse = |origin: &str, reason: &str| TrainerError::Config {
            origin: origin.to_string(),
            reason: with_nearest(reason),
        };
        // Once on the text itself: such errors name the line.
        let config: Self =
            toml::from_str(text).map_err(|error| refuse(origin, error.to_string().trim()))?;
        if overrides.is_empty() {
            config.validate()?;
            return Ok(config);
        }
        let mut table: toml::Table =
            toml::from_str(text).map_err(|error| refuse(origin, error.to_string().trim()))?;
        let mut config = config;
        for entry in overrides {
            let origin = format!("--set {entry}");
            set(&mut table, entry).map_err(|reason| refuse(&origin, &reason))?;
            config = table
                .clone()
                .try_into()
                .map_err(|error: toml::de::Error| refuse(&origin, error.message()))?;
        }
        config.validate()?;
        Ok(config)
    }

    /// The config as TOML text.
    ///
    /// # Errors
    ///
    /// Where a value has no TOML form.
    pub fn to_toml(&self) -> Result<String, TrainerError> {
        toml::to_string_pretty(self).map_err(|error| TrainerError::Config {
            origin: "config".into(),
            reason: error.to_string(),
        })
    }

    /// The seed that chooses the images held out from training.
    pub fn held_out_seed(&self) -> u64 {
        self.train.held_out_seed.unwrap_or(self.seed)
    }

    /// Epochs of the training: evaluations and checkpoints.
    pub fn num_epochs(&self) -> usize {
        self.train.steps.div_ceil(self.train.steps_per_epoch)
    }

    fn validate(&self) -> Result<(), TrainerError> {
        let train = &self.train;
        for (field, value) in [
            ("train.steps", train.steps),
            ("train.batch_size", train.batch_size),
            ("train.accumulation", train.accumulation),
            ("train.steps_per_epoch", train.steps_per_epoch),
            ("train.held_out", train.held_out),
            ("train.agents_every", train.agents_every),
            ("train.dense_every", train.dense_every.unwrap_or(1)),
            ("train.eval_batch_size", train.eval_batch_size),
            ("input.train_images", self.input.train_images.unwrap_or(1)),
            ("input.test_images", self.input.test_images.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(TrainerError::Field {
                    field: field.into(),
                    found: "0".into(),
                    expected: "must be at least 1".into(),
                });
            }
        }
        if !train.steps.is_multiple_of(train.steps_per_epoch) {
            return Err(TrainerError::Field {
                field: "train.steps".into(),
                found: train.steps.to_string(),
                expected: format!(
                    "must be a multiple of train.steps_per_epoch = {}",
                    train.steps_per_epoch
                ),
            });
        }
        if train.dense_steps + train.agents_warmup_steps >= train.steps {
            return Err(TrainerError::Field {
                field: "train.dense_steps".into(),
                found: train.dense_steps.to_string(),
                expected: format!(
                    "with train.agents_warmup_steps = {} must be less than train.steps = {}",
                    train.agents_warmup_steps, train.steps
                ),
            });
        }
        self.validate_policy()?;
        self.input.transform.validate()?;
        let optimizer = &self.optimizer;
        let positive = [
            ("train.clip_norm", Some(f64::from(train.clip_norm))),
            ("optimizer.learning_rate", Some(optimizer.learning_rate)),
            ("optimizer.head_learning_rate", optimizer.head_learning_rate),
            (
                "optimizer.agents_learning_rate",
                optimizer.agents_learning_rate,
            ),
        ];
        for (field, value) in positive {
            let Some(value) = value else { continue };
            if !(value > 0.0 && value.is_finite()) {
                return Err(TrainerError::Field {
                    field: field.into(),
                    found: value.to_string(),
                    expected: "must be above 0".into(),
                });
            }
        }
        let factors = [
            ("optimizer.momentum", optimizer.momentum),
            ("optimizer.betas", f64::from(optimizer.betas[0])),
            ("optimizer.betas", f64::from(optimizer.betas[1])),
        ];
        for (field, value) in factors {
            if !(0.0..1.0).contains(&value) {
                return Err(TrainerError::Field {
                    field: field.into(),
                    found: value.to_string(),
                    expected: "must be at least 0 and below 1".into(),
                });
            }
        }
        if !(optimizer.weight_decay >= 0.0 && optimizer.weight_decay.is_finite()) {
            return Err(TrainerError::Field {
                field: "optimizer.weight_decay".into(),
                found: optimizer.weight_decay.to_string(),
                expected: "must be at least 0".into(),
            });
        }
        if !(0.0..=1.0).contains(&self.agents.threshold) {
            return Err(TrainerError::Field {
                field: "agents.threshold".into(),
                found: self.agents.threshold.to_string(),
                expected: "must be a probability, 0 to 1".into(),
            });
        }
        Ok(())
    }
}

impl ExperimentConfig {
    fn validate_policy(&self) -> Result<(), TrainerError> {
        let wrong = |field: &str, found: String, expected: &str| {
            Err(TrainerError::Field {
                field: field.into(),
                found,
                expected: expected.into(),
            })
        };
        let shares = &self.budget.flops;
        if let Some(share) = shares.iter().find(|&&share| !(share > 0.0 && share <= 1.0)) {
            return wrong(
                "budget.flops",
                share.to_string(),
                "must be shares of the dense FLOPs, above 0 and at most 1",
            );
        }
        let agents = self.policy.kind == PolicyKind::Agents;
        if shares.is_empty() && !(agents && self.algorithm.kind == AlgorithmKind::Counterfactual) {
            return wrong(
                "budget.flops",
                "[]".into(),
                "must name at least one share of the dense FLOPs: only agents that learn by \
                 algorithm.kind = \"counterfactual\" prune without a budget",
            );
        }
        let pair = self.agents.network == AgentNetwork::Pair;
        if agents && pair != (self.policy.merge == Merging::Matched) {
            return wrong(
                "policy.merge",
                format!("{:?}", self.policy.merge).to_lowercase(),
                "must be \"matched\" where agents.network = \"pair\", and only there: those agents judge pairs",
            );
        }
        if self.policy.priced && !(agents && pair) {
            return wrong(
                "policy.priced",
                "true".into(),
                "must be false where no agents judge pairs",
            );
        }
        let algorithm = &self.algorithm;
        if pair && algorithm.kind == AlgorithmKind::Counterfactual && !algorithm.first_order {
            return wrong(
                "algorithm.first_order",
                "false".into(),
                "must be true where agents judge pairs: a cut of one patch says nothing of them",
            );
        }
        if algorithm.kind == AlgorithmKind::DynamicVit && !self.policy.uniform {
            return wrong(
                "policy.uniform",
                "false".into(),
                "must be true with algorithm.kind = \"dynamic-vit\", which keeps a number of tokens",
            );
        }
        if self.train.gradient_checkpointing
            && (algorithm.first_order || algorithm.kind == AlgorithmKind::DynamicVit)
        {
            return wrong(
                "train.gradient_checkpointing",
                "true".into(),
                "must be false where agents learn from the model's own backward pass",
            );
        }
        if algorithm.cuts == 0 || algorithm.epochs == 0 || algorithm.samples < 2 {
            let (field, found, expected) = match (algorithm.cuts, algorithm.epochs) {
                (0, _) => ("algorithm.cuts", 0, "must be at least 1"),
                (_, 0) => ("algorithm.epochs", 0, "must be at least 1"),
                _ => (
                    "algorithm.samples",
                    algorithm.samples,
                    "must be at least 2: each is judged by the others",
                ),
            };
            return wrong(field, found.to_string(), expected);
        }
        for (field, value) in [
            ("algorithm.weight", algorithm.weight),
            ("algorithm.temperature", algorithm.temperature),
            ("algorithm.scale", algorithm.scale),
            ("policy.taper", self.policy.taper),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return wrong(field, value.to_string(), "must be above 0");
            }
        }
        if self.train.distill > 0.0 && self.train.gradient_checkpointing {
            return wrong(
                "train.distill",
                self.train.distill.to_string(),
                "must be 0 where train.gradient_checkpointing = true",
            );
        }
        if !(self.train.distill >= 0.0 && self.train.distill.is_finite()) {
            return wrong(
                "train.distill",
                self.train.distill.to_string(),
                "must be at least 0",
            );
        }
        Ok(())
    }
}

/// Puts `a.b.c=value` into the table; a value that is not TOML is taken as a string.
fn set(table: &mut toml::Table, entry: &str) -> Result<(), String> {
    let (key, value) = entry
        .split_once('=')
        .ok_or("expected key=value, as in train.steps=1000")?;
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_string()));
    let mut parts = key.trim().split('.').peekable();
    let mut table = table;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            table.insert(part.to_string(), value);
            return Ok(());
        }
        let entry = table
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = entry
            .as_table_mut()
            .ok_or_else(|| format!("'{part}' is a value and has no key below it"))?;
    }
    Ok(())
}

/// Serde's message in words that need no Rust, and with the nearest valid name to an unknown one.
fn with_nearest(message: &str) -> String {
    let message = ["usize", "u64", "u32"]
        .iter()
        .fold(message.to_string(), |message, kind| {
            message.replace(&format!("expected {kind}"), "expected a whole number")
        });
    let message = ["f64", "f32"].iter().fold(message, |message, kind| {
        message.replace(&format!("expected {kind}"), "expected a number")
    });
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = message.contains("unknown field") || message.contains("unknown variant");
    let Some((found, valid)) = quoted.split_first().filter(|_| unknown) else {
        return message;
    };
    let nearest = valid
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(found, a).total_cmp(&strsim::jaro_winkler(found, b)));
    match nearest {
        Some(nearest) => format!("{message}\ndid you mean `{nearest}`?"),
        None => message,
    }
}

#[cfg(test)]
mod tests;
