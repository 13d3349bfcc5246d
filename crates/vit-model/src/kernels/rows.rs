use burn::nn::LayerNorm;
use burn::prelude::*;

use crate::precision::cast;

/// Tokens between two halves of a block, and what is still to be added to them: where a kernel norms and adds in one go,
/// the sum waits for the next norm.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// `[rows, hidden]`
    pub tokens: Tensor<2>,
    /// The same shape and floats.
    pub added: Option<Tensor<2>>,
}

impl Rows {
    /// Tokens with nothing to add.
    pub fn new(tokens: Tensor<2>) -> Self {
        Self {
            tokens,
            added: None,
        }
    }

    /// The sum, `[rows, hidden]`.
    pub fn sum(&self) -> Tensor<2> {
        match &self.added {
            Some(added) => self.tokens.clone() + added.clone(),
            None => self.tokens.clone(),
        }
    }

    /// The sum alone, and its layer norm, both in the floats of the tokens.
    pub fn normed(self, norm: &LayerNorm, epsilon: f64) -> (Self, Tensor<2>) {
        #[cfg(feature = "tch")]
        if let Some((sum, normed)) = super::libtorch::gpu::add_norm_of(&self, norm, epsilon) {
            return (Self::new(sum), normed);
        }
        let sum = self.sum();
        let normed = super::layer_norm(norm, epsilon, sum.clone());
        (Self::new(sum), normed)
    }

    /// Can what is added next wait for the next norm?
    pub fn can_wait(&self) -> bool {
        #[cfg(feature = "tch")]
        if super::libtorch::gpu::adds_with_norm(&self.tokens) {
            return true;
        }
        false
    }

    /// These with `output` added. Nothing else waits.
    pub fn plus(self, output: Tensor<2>) -> Self {
        let output = cast(output, self.tokens.dtype());
        if self.can_wait() {
            return Self {
                added: Some(output),
                ..self
            };
        }
        Self::new(self.tokens + output)
    }
}
