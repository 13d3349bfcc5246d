use serde::{Deserialize, Serialize};

use crate::first_order::Lesson;

/// `[budget]`: what the pruned model may compute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// Shares of the dense model's FLOPs, the policy's own included. In training, one is drawn for each
    /// batch; the trained model meets each. Empty: agents remove what they want, as published.
    pub flops: Vec<f64>,
}

/// How agents learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlgorithmKind {
    /// From what cutting a token does: published.
    #[default]
    Counterfactual,
    /// From how whole decisions on an image compare with other decisions on it.
    PolicyGradient,
    /// From the same, step by step, with a critic.
    Ppo,
    /// From the model's own loss, through a relaxed decision: DynamicViT.
    DynamicVit,
}

/// What agents learn of a first-order effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LessonKind {
    /// Whether it is above the margin: published.
    #[default]
    Label,
    /// Its value.
    Value,
    /// How large it is, whichever way it goes.
    Size,
}

/// `[algorithm]`: how the agents learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlgorithmConfig {
    /// Which algorithm.
    pub kind: AlgorithmKind,
    /// `counterfactual`: a cut counts as good where its reward is above this; 0 is published.
    pub margin: f64,
    /// `counterfactual`: cuts of each image in each pass, one after the other; 1 is published.
    pub cuts: usize,
    /// `counterfactual`: the effects of all cuts at once, to first order, instead of those of a few. They are
    /// taken from stream 1's backward pass, of the tokens that the agents left.
    pub first_order: bool,
    /// `counterfactual` with `first_order`: what agents learn of an effect.
    pub lesson: LessonKind,
    /// Of lessons other than `label`: what effects are divided by.
    pub scale: f64,
    /// `counterfactual` with `first_order`, `policy-gradient`: of the noise by which stream 1 tries other
    /// decisions than the agents' own; 0 is none.
    pub exploration: f64,
    /// What the agents' losses are multiplied by; 1 is published. Gradients are clipped together: large ones of
    /// agents shrink the model's.
    pub weight: f64,
    /// `policy-gradient`, `ppo`: decisions tried on each image in each pass.
    pub samples: usize,
    /// `ppo`: how often a rollout is learned from.
    pub epochs: usize,
    /// `policy-gradient`, `ppo`, `dynamic-vit`: of the noise on decisions.
    pub temperature: f64,
}

impl Default for AlgorithmConfig {
    fn default() -> Self {
        Self {
            kind: AlgorithmKind::Counterfactual,
            margin: 0.0,
            cuts: 1,
            first_order: false,
            lesson: LessonKind::Label,
            scale: 0.005,
            exploration: 0.0,
            weight: 1.0,
            samples: 4,
            epochs: 3,
            temperature: 1.0,
        }
    }
}

impl AlgorithmConfig {
    /// Does it learn from stream 1's backward pass?
    pub(crate) fn probes(&self) -> bool {
        self.kind == AlgorithmKind::Counterfactual && self.first_order
    }

    /// What agents learn of first-order effects; `uniform` is that of the policy.
    pub(crate) fn lesson(&self, uniform: bool) -> Lesson {
        let scale = self.scale as f32;
        match self.lesson {
            LessonKind::Label => Lesson::Label {
                margin: self.margin as f32,
            },
            LessonKind::Value => Lesson::Value { scale },
            LessonKind::Size => Lesson::Size {
                scale,
                within_images: uniform,
            },
        }
    }
}
