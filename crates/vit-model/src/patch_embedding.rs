use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Initializer, Linear, LinearConfig};
use burn::prelude::*;

use crate::{TokenBatch, VitConfig, kernels};

/// Images to tokens: each patch projected, CLS in front, positions added, dropout
/// (Dosovitskiy et al. 2021, equation 1).
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// The projection of a flattened patch, `[3 * patch * patch, hidden]`: channels outermost,
    /// then rows, then columns. A convolution of stride `patch`, written as a matrix product.
    pub projection: Linear,
    /// The CLS token, `[1, 1, hidden]`.
    pub cls_token: Param<Tensor<3>>,
    /// The learned positions, CLS first, `[1, tokens, hidden]`.
    pub positions: Param<Tensor<3>>,
    /// Dropout after the positions.
    pub dropout: Dropout,
    patch_size: usize,
}

impl PatchEmbedding {
    pub(crate) fn new(config: &VitConfig, device: &Device) -> Self {
        let normal = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        let inputs = 3 * config.patch_size * config.patch_size;
        let mut projection = LinearConfig::new(inputs, config.hidden_size)
            .with_initializer(Initializer::XavierUniform { gain: 1.0 })
            .init(device);
        projection.bias = Some(Initializer::Zeros.init([config.hidden_size], device));
        Self {
            projection,
            cls_token: normal.init([1, 1, config.hidden_size], device),
            positions: normal.init([1, config.num_tokens(), config.hidden_size], device),
            dropout: DropoutConfig::new(config.dropout).init(),
            patch_size: config.patch_size,
        }
    }

    /// `[batch, 3, height, width]` to a full token batch.
    ///
    /// # Panics
    ///
    /// Panics where the images have another size than the model.
    pub fn forward(&self, images: Tensor<4>) -> TokenBatch {
        let [batch, channels, height, width] = images.dims();
        let patch = self.patch_size;
        let (rows, columns) = (height / patch, width / patch);
        let [_, tokens, hidden] = self.positions.dims();
        assert_eq!(rows * columns + 1, tokens, "image size of the model");

        let patches = images
            .reshape([batch, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch * rows * columns, channels * patch * patch]);
        let patches = kernels::linear(&self.projection, patches);
        let patches = patches.reshape([batch, rows * columns, hidden]);
        let cls = self.cls_token.val().expand([batch, 1, hidden]);
        let tokens = Tensor::cat(vec![cls, patches], 1) + self.positions.val();
        TokenBatch::full(self.dropout.forward(tokens))
    }
}
