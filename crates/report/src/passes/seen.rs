//! A model's answers for one image, dense and pruned.

use apt_inference::LayerAnswer;

/// The most probable class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Its place among the logits.
    pub class: usize,
    /// From 0 to 1.
    pub probability: f64,
}

impl Verdict {
    pub(super) fn of(probabilities: &[f32]) -> Self {
        let all = probabilities.iter().enumerate();
        let most = all.max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        let (class, &probability) = most.unwrap_or((0, &0.0));
        Self {
            class,
            probability: f64::from(probability),
        }
    }
}

/// An image and the model's answers for it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its place among the images.
    pub index: usize,
    /// Its file, or its number.
    pub name: String,
    /// The true class; `None` for an image without a label.
    pub label: Option<usize>,
    /// The dense model's answer.
    pub dense: Verdict,
    /// The pruned model's.
    pub pruned: Verdict,
    /// KL(dense || pruned) in nats.
    pub kl: f64,
    /// Counted FLOPs of the pruned pass, the policy's own included, as a share of the dense model's.
    pub flops_share: f64,
    /// What each block in which the policy acted left.
    pub layers: Vec<LayerAnswer>,
}

impl Seen {
    /// Is the pruned answer the true class?
    pub fn pruned_is_right(&self) -> Option<bool> {
        self.label.map(|label| label == self.pruned.class)
    }

    /// Is the dense answer the true class?
    pub fn dense_is_right(&self) -> Option<bool> {
        self.label.map(|label| label == self.dense.class)
    }

    /// Are both answers the same?
    pub fn agrees(&self) -> bool {
        self.dense.class == self.pruned.class
    }
}
