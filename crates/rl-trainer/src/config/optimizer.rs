//! `[optimizer]` and `[schedule]`.

use serde::{Deserialize, Serialize};

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
    pub name: OptimizerKind,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// The head's peak; the same where absent.
    pub head_learning_rate: Option<f64>,
    /// The policy's peak; the same where absent.
    pub agent_learning_rate: Option<f64>,
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
            name: OptimizerKind::Sgd,
            learning_rate: 0.03,
            head_learning_rate: None,
            agent_learning_rate: None,
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
    /// Update k of so many has k times the peak divided by so many. A config file that does not say it has at most a tenth of
    /// its steps.
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
