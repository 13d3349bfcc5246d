//! The network that says what an image would be answered now, and how wrong that would be.

use apt_vit_model::host::{read, upload};
use apt_vit_model::{FlopsCount, Heads, VitConfig};
use burn::config::Config;
use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::prelude::*;

/// What an answer says of its own certainty.
const FACTS: usize = 3;
/// Added before a logarithm is taken.
const LEAST: f32 = 1e-4;

/// Configuration of an [`ExitAgent`].
#[derive(Config, Debug)]
pub struct ExitAgentConfig {
    /// Width of the model's tokens.
    pub hidden_size: usize,
}

impl ExitAgentConfig {
    /// Creates it on `device`. Before it learns it takes tokens for what the last block would make of them.
    pub fn init(&self, device: &Device) -> ExitAgent {
        let hidden = self.hidden_size;
        let zeros = |layer: LinearConfig| layer.with_initializer(Initializer::Zeros).init(device);
        ExitAgent {
            lens: zeros(LinearConfig::new(hidden, hidden)),
            judge: zeros(LinearConfig::new(FACTS, 1)),
        }
    }
}

/// For one block: a lens that turns the first tokens into what the last block would make of them (Belrose et al., "Eliciting
/// Latent Predictions from Transformers with the Tuned Lens", 2023), and a judge that foresees how far the answer through
/// the lens is from the one at the end, by how certain that answer is. The judge is linear: one with a layer in between, taught by
/// some hundreds of images, took images for settled that were not.
#[derive(Module, Debug)]
pub struct ExitAgent {
    /// `[hidden, hidden]`, on standardised tokens; what it says is added to the token.
    pub lens: Linear,
    /// `[3, 1]`
    pub judge: Linear,
}

impl ExitAgent {
    /// What the later blocks would add to first tokens of images, `[images, hidden]`.
    pub fn shift(&self, tokens: Tensor<2>) -> Tensor<2> {
        self.lens.forward(standard(tokens))
    }

    /// First tokens of images, `[images, hidden]`, as the last block would leave them.
    pub fn foresee(&self, tokens: Tensor<2>) -> Tensor<2> {
        self.shift(tokens.clone()) + tokens
    }

    /// The logarithm of how far, in the mean of images like this one, the answer is from the one at the end, in nats or as
    /// 1 - cosine, `[images, 1]`, given what [`certainty`] says of the answers.
    pub fn harm(&self, certainty: Tensor<2>) -> Tensor<2> {
        self.judge.forward(certainty)
    }

    /// What it computes for one image, the heads' answer included.
    pub fn flops(model: &VitConfig) -> FlopsCount {
        let (hidden, heads) = (model.hidden_size, model.num_heads_on_top());
        let lens = heads.max(1) * hidden * hidden;
        2 * (lens + FACTS) as u64 + Heads::flops(model)
    }
}

/// Each row without its mean and in standard deviations.
fn standard(rows: Tensor<2>) -> Tensor<2> {
    let (variance, mean) = rows.clone().var_mean_bias(1);
    (rows - mean) / (variance + f64::from(LEAST)).sqrt()
}

/// What answers, `[images, classes]`, say of their own certainty, `[images, 3]`: the logarithms of their entropy and of the
/// probability of all classes but the first, and how far the first is above the second. Of features: the logarithm of the size of
/// the lens's step, `[images, hidden]`, and zeros.
pub fn certainty(answers: Tensor<2>, step: &Tensor<2>, heads: &Heads<'_>) -> Tensor<2> {
    let ([images, classes], device) = (answers.dims(), answers.device());
    if !heads.classifies() {
        let step = step.clone().square().mean_dim(1).sqrt();
        let nothing = Tensor::zeros([images, FACTS - 1], &device);
        return Tensor::cat(vec![(step + LEAST).log(), nothing], 1);
    }
    let answers = read(answers);
    let facts = answers.chunks_exact(classes.max(1)).flat_map(facts);
    upload(facts.collect(), [images, FACTS], &device)
}

fn facts(logits: &[f32]) -> [f32; FACTS] {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &logit in logits {
        if logit > first {
            (first, second) = (logit, first);
        } else {
            second = second.max(logit);
        }
    }
    let (mut sum, mut moment) = (0.0, 0.0);
    for &logit in logits {
        let power = (logit - first).exp();
        sum += power;
        moment += power * (first - logit);
    }
    // Of a softmax: ln sum + the mean distance from the first.
    let entropy = sum.ln() + moment / sum;
    let margin = if second.is_finite() {
        first - second
    } else {
        0.0
    };
    [
        (entropy + LEAST).ln(),
        (1.0 - 1.0 / sum + LEAST).ln(),
        margin.ln_1p(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_an_answer() {
        let even = facts(&[2.0, 2.0]);
        assert!((even[0] - (2f32.ln() + LEAST).ln()).abs() < 1e-5);
        assert!((even[1] - (0.5f32 + LEAST).ln()).abs() < 1e-5);
        assert_eq!(even[2], 0.0);
        let sure = facts(&[90.0, 0.0, 1.0]);
        assert!(sure[0] < -9.0 && sure[1] < -9.0 && sure[2] > 4.0);
        assert!(facts(&[1.0]).iter().all(|fact| fact.is_finite()));
    }

    #[test]
    fn a_fresh_lens_changes_nothing() {
        let device = Device::default();
        let agent = ExitAgentConfig::new(8).init(&device);
        let tokens = Tensor::<2>::ones([3, 8], &device);
        let seen = agent.foresee(tokens.clone());
        assert_eq!(seen.into_data(), tokens.into_data());
    }
}
