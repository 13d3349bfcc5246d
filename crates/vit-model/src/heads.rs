//! The end of a model: from its first tokens to its answer.

use burn::nn::{LayerNorm, Linear};
use burn::prelude::*;

use crate::precision::widen;
use crate::{FlopsCount, Vit, VitConfig};

/// The last norm and the heads of a model.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    norm: &'a LayerNorm,
    head: Option<&'a Linear>,
    distilled: Option<&'a Linear>,
}

impl<'a> Heads<'a> {
    /// Those of a model.
    pub fn of(vit: &'a Vit) -> Self {
        Self {
            norm: &vit.norm,
            head: vit.head.as_ref(),
            distilled: vit.distillation_head.as_ref(),
        }
    }

    /// What the heads of such a model compute for one image.
    pub fn flops(config: &VitConfig) -> FlopsCount {
        2 * (config.num_heads_on_top() * config.hidden_size * config.num_classes) as FlopsCount
    }

    /// Do they answer with classes, and not with features?
    pub fn classifies(&self) -> bool {
        self.head.is_some()
    }

    /// Tokens of each image that they see: CLS, and with two heads the distillation token after it.
    pub fn tokens(&self) -> usize {
        1 + usize::from(self.distilled.is_some())
    }

    /// The answer to `images` images, given these tokens, `[images, hidden]` each: class logits, `[images, classes]`, or
    /// without a head the features; and the features, `[images, hidden]`.
    ///
    /// # Panics
    ///
    /// Where there are fewer than [`tokens`](Self::tokens).
    pub fn answer(&self, tokens: &[Tensor<2>]) -> (Tensor<2>, Tensor<2>) {
        let normed = |place: usize| self.norm.forward(widen(tokens[place].clone()));
        let features = normed(0);
        let logits = match (self.head, self.distilled) {
            (None, _) => features.clone(),
            (Some(head), None) => head.forward(features.clone()),
            (Some(head), Some(distilled)) => {
                (head.forward(features.clone()) + distilled.forward(normed(1))) / 2.0
            }
        };
        (logits, features)
    }
}
