//! LibTorch's fused operations, where Burn would run several: a bias within the matrix product, and a bias on the scores
//! within the attention.

pub(super) mod gpu;
mod program;

use burn::backend::LibTorch;
use burn::backend::TensorMetadata;
use burn::backend::libtorch::LibTorchDevice;
use burn::backend::tensor::{Device, FloatTensor};
use tch::Tensor;

use super::{FusedOps, composed};
use crate::Precision;

/// On a GPU, ragged batches are padded to a multiple of this: one launch for all images, and what LibTorch's attention
/// wants a bias to be aligned to.
const GPU_LENGTH_STEP: usize = 8;

impl FusedOps for LibTorch {
    const LENGTH_STEP: fn(&Device<Self>) -> usize = |device| match device {
        LibTorchDevice::Cpu => 1,
        _ => GPU_LENGTH_STEP,
    };

    fn attention_with_bias(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        new(Tensor::scaled_dot_product_attention(
            &query.tensor,
            &key.tensor,
            &value.tensor,
            Some(&bias.tensor),
            0.0,
            false,
            None,
            false,
        ))
    }

    fn fused_linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        _: Precision,
    ) -> FloatTensor<Self> {
        if !is_on_gpu(&input) {
            return composed::linear::<Self>([input, weight, bias]);
        }
        new(linear(&input, &weight, &bias))
    }

    fn fused_linear_gelu(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dropout: Option<f64>,
        _: Precision,
    ) -> FloatTensor<Self> {
        if !is_on_gpu(&input) {
            return composed::linear_gelu::<Self>([input, weight, bias], dropout);
        }
        let output = linear(&input, &weight, &bias).gelu_("none");
        composed::drop_values::<Self>(new(output), dropout)
    }

    fn fused_linear_add(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        dropout: Option<f64>,
        _: Precision,
    ) -> FloatTensor<Self> {
        if !is_on_gpu(&input) {
            return composed::linear_add::<Self>([input, weight, bias], residual, dropout);
        }
        let output = new(linear(&input, &weight, &bias));
        let mut output = composed::drop_values::<Self>(output, dropout);
        new(output.tensor.g_add_(&residual.tensor))
    }

    /// In the floats of the input.
    fn fused_layer_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (x, gamma_, beta_) = (&input.tensor, &gamma.tensor, &beta.tensor);
        if let Some((_, normed)) = gpu::add_norm(x, None, gamma_, beta_, epsilon) {
            return new(normed);
        }
        let like_input = |tensor: FloatTensor<Self>| tensor.tensor.to_kind(input.tensor.kind());
        let width = input.shape()[1] as i64;
        let (gamma, beta) = (like_input(gamma), like_input(beta));
        new(input
            .tensor
            .layer_norm([width], Some(gamma), Some(beta), epsilon, true))
    }
}

/// On the CPU nothing was measured that would speak against Burn's own operations, which round as they do with gradients.
fn is_on_gpu(tensor: &FloatTensor<LibTorch>) -> bool {
    tensor.tensor.device().is_cuda()
}

/// The bias is added by the product's kernel.
fn linear(
    input: &FloatTensor<LibTorch>,
    weight: &FloatTensor<LibTorch>,
    bias: &FloatTensor<LibTorch>,
) -> Tensor {
    bias.tensor.addmm(&input.tensor, &weight.tensor)
}

/// A result that shares memory with nothing.
fn new(tensor: Tensor) -> FloatTensor<LibTorch> {
    FloatTensor::<LibTorch>::new(tensor)
}
