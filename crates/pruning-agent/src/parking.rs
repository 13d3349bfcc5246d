//! What parked tokens are read by, in each block.

use std::sync::Arc;

use apt_vit_model::{Drift, Reading, VitConfig};
use burn::module::{Module, Param};
use burn::prelude::*;

/// Added to attention scores, this lets nothing be heard.
pub const UNHEARD: f32 = -40.0;

/// How one block drifts parked tokens, and how well it hears them.
#[derive(Module, Debug)]
pub struct BlockReading {
    /// `[heads]`, added to the CLS token's attention scores for parked tokens.
    pub bias: Param<Tensor<1>>,
    /// `[hidden]`, of the attention's half.
    pub attention_scale: Param<Tensor<1>>,
    /// `[hidden]`
    pub attention_shift: Param<Tensor<1>>,
    /// `[hidden]`, of the MLP's half.
    pub mlp_scale: Param<Tensor<1>>,
    /// `[hidden]`
    pub mlp_shift: Param<Tensor<1>>,
}

/// How a model reads parked tokens, a [`BlockReading`] for each of its blocks.
#[derive(Module, Debug)]
pub struct Parking {
    /// One for each of the model's blocks.
    pub blocks: Vec<BlockReading>,
}

impl BlockReading {
    /// # Shapes
    ///
    /// - `bias`: `[heads]`
    /// - of each half (attention, MLP) `scale` and `shift`: `[hidden]`
    pub fn new(bias: Tensor<1>, halves: [[Tensor<1>; 2]; 2]) -> Self {
        let [attention, mlp] = halves;
        let [attention_scale, attention_shift] = attention.map(Param::from_tensor);
        let [mlp_scale, mlp_shift] = mlp.map(Param::from_tensor);
        Self {
            bias: Param::from_tensor(bias),
            attention_scale,
            attention_shift,
            mlp_scale,
            mlp_shift,
        }
    }

    fn reading(&self) -> Reading {
        let drift = |scale: &Param<Tensor<1>>, shift: &Param<Tensor<1>>| Drift {
            scale: scale.val(),
            shift: shift.val(),
        };
        Reading {
            bias: self.bias.val(),
            drifts: [
                drift(&self.attention_scale, &self.attention_shift),
                drift(&self.mlp_scale, &self.mlp_shift),
            ],
        }
    }
}

impl Parking {
    /// One that is not taught: parked tokens stay as they are, and are not heard.
    pub fn init(model: &VitConfig, device: &Device) -> Self {
        let full = |value: f32, width: usize| Tensor::<1>::full([width], value, device);
        let half = || [full(1.0, model.hidden_size), full(0.0, model.hidden_size)];
        let block = |_| BlockReading::new(full(UNHEARD, model.num_heads), [half(), half()]);
        Self {
            blocks: (0..model.num_layers).map(block).collect(),
        }
    }

    /// One for each of the model's blocks, for the model to run.
    pub fn readings(&self) -> Arc<[Reading]> {
        self.blocks.iter().map(BlockReading::reading).collect()
    }
}
