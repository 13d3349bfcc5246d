use burn::nn::Linear;
use burn::prelude::*;

use super::ShortLinear;
use crate::Precision;

/// A linear layer for inference, its weight rounded or quantised and laid out once.
#[derive(Clone, Debug)]
pub struct Prepacked {
    layer: Linear,
    short: Option<ShortLinear>,
    precision: Precision,
}

impl Prepacked {
    /// None where this machine has no kernels for the layer in that precision.
    pub fn new(layer: &Linear, precision: Precision) -> Option<Self> {
        let short = match precision {
            Precision::F32 => None,
            precision => Some(ShortLinear::new(layer, precision)?),
        };
        let layer = match &short {
            Some(_) => layer.clone(),
            None => super::prepack(layer.clone(), precision),
        };
        Some(Self {
            layer,
            short,
            precision,
        })
    }

    /// What its product is computed in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// `[rows, inputs]` to `[rows, outputs]`, both of 32-bit floats.
    pub fn forward(&self, input: &Tensor<2>) -> Tensor<2> {
        let short = self.short.as_ref();
        let output = short.and_then(|short| short.forward(input));
        output.unwrap_or_else(|| super::linear(&self.layer, input.clone(), self.precision))
    }
}
