//! The operations as a Burn backend extension.

use std::sync::Arc;

use burn::backend::tensor::{Device as BackendDevice, FloatTensor};
use burn::backend::{Backend, DType, TensorMetadata, backend_extension};
use burn::tensor::Shape;

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use super::device::shared_shape;
use super::own::{Kernels, Then};
use super::row_sums::RowSums;
use super::spans::Spans;
use super::{Precision, composed};

/// The operations, on any backend.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(any(feature = "wgpu", feature = "cuda")),
    LibTorch: cfg(feature = "tch"),
    Remote: cfg(feature = "remote"),
    Autodiff
)]
pub(crate) trait FusedOps: Backend {
    /// The backend's own kernels, where it has some.
    const KERNELS: Option<&'static dyn Kernels<Self>> = None;

    /// Without kernels: above 1, all sequences are attended to together, padded to a multiple of this.
    const LENGTH_STEP: fn(&BackendDevice<Self>) -> usize = |_| 1;

    /// Without kernels: how many rows there are to be instead of so many.
    const FILL: fn(usize) -> usize = |rows| rows;

    /// See [`attention`](super::attention).
    fn packed_attention(
        qkv: FloatTensor<Self>,
        spans: Arc<Spans>,
        num_heads: usize,
    ) -> FloatTensor<Self> {
        match kernels_for::<Self>(&qkv) {
            Some(kernels) => kernels.attention(&qkv, &spans, num_heads).0,
            None => {
                let step = (Self::LENGTH_STEP)(&qkv.device());
                composed::attention::<Self>(qkv, None, &spans, num_heads, step)
            }
        }
    }

    /// See [`masked_attention`](super::masked_attention).
    fn masked_attention(
        qkv: FloatTensor<Self>,
        key_mask: FloatTensor<Self>,
        spans: Arc<Spans>,
        num_heads: usize,
    ) -> FloatTensor<Self> {
        match kernels_for::<Self>(&qkv) {
            Some(kernels) => {
                kernels
                    .masked_attention(&qkv, &key_mask, &spans, num_heads)
                    .0
            }
            None => {
                let step = (Self::LENGTH_STEP)(&qkv.device());
                composed::attention::<Self>(qkv, Some(key_mask), &spans, num_heads, step)
            }
        }
    }

    /// Attention of `[images, heads, tokens, width]`, where `bias`, `[images, 1, 1, tokens]`, is added to the scores; no
    /// gradient reaches it.
    fn attention_with_bias(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [images, heads, tokens, _] = query.shape().dims();
        let bias = Self::float_expand(bias, Shape::from([images, heads, tokens, tokens]));
        Self::attention(query, key, value, None, Some(bias), Default::default())
    }

    /// See [`uniform_attention`](super::uniform_attention).
    fn uniform_attention(
        qkv: FloatTensor<Self>,
        tokens: usize,
        num_heads: usize,
    ) -> FloatTensor<Self> {
        composed::uniform_attention::<Self>(qkv, None, tokens, num_heads)
    }

    /// See [`uniform_attention`](super::uniform_attention).
    fn biased_attention(
        qkv: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        tokens: usize,
        num_heads: usize,
    ) -> FloatTensor<Self> {
        composed::uniform_attention::<Self>(qkv, Some(bias), tokens, num_heads)
    }

    /// See [`linear`](super::linear).
    fn fused_linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        match kernels_for::<Self>(&input) {
            Some(kernels) => {
                kernels
                    .linear(&input, &weight, &bias, Then::End, None, precision)
                    .0
            }
            None => composed::linear::<Self>([input, weight, bias]),
        }
    }

    /// See [`prepack`](super::prepack).
    fn prepack(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        match kernels_for::<Self>(&weight) {
            Some(kernels) => kernels.prepack(&weight),
            None => weight,
        }
    }

    /// See [`linear_gelu`](super::linear_gelu).
    fn fused_linear_gelu(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dropout: Option<f64>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        match kernels_for::<Self>(&input) {
            Some(kernels) => {
                let mask = dropout.map(|probability| kernels.mask(probability));
                kernels
                    .linear(
                        &input,
                        &weight,
                        &bias,
                        Then::Gelu { keep: false },
                        mask,
                        precision,
                    )
                    .0
            }
            None => composed::linear_gelu::<Self>([input, weight, bias], dropout),
        }
    }

    /// See [`linear_add`](super::linear_add).
    fn fused_linear_add(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        dropout: Option<f64>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        match kernels_for::<Self>(&input) {
            Some(kernels) => {
                let mask = dropout.map(|probability| kernels.mask(probability));
                kernels
                    .linear(
                        &input,
                        &weight,
                        &bias,
                        Then::Add(&residual),
                        mask,
                        precision,
                    )
                    .0
            }
            None => composed::linear_add::<Self>([input, weight, bias], residual, dropout),
        }
    }

    /// See [`layer_norm`](super::layer_norm).
    fn fused_layer_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        match kernels_for::<Self>(&input) {
            Some(kernels) => kernels.layer_norm(&input, &gamma, &beta, epsilon).0,
            None => composed::layer_norm::<Self>([input, gamma, beta], epsilon),
        }
    }

    /// See [`patches`](super::patches).
    fn patches(features: FloatTensor<Self>, patch: usize) -> FloatTensor<Self> {
        match kernels_for::<Self>(&features) {
            Some(kernels) => kernels.patches(&features, patch),
            None => composed::patches::<Self>(features, patch),
        }
    }

    /// See [`assemble`](super::assemble).
    fn assemble(
        patches: FloatTensor<Self>,
        table: FloatTensor<Self>,
        prefix: usize,
    ) -> FloatTensor<Self> {
        match kernels_for::<Self>(&patches) {
            Some(kernels) => kernels.assemble(&patches, &table, prefix),
            None => composed::assemble::<Self>(patches, table, prefix),
        }
    }

    /// See [`mean_keys`](super::mean_keys).
    fn mean_keys(qkv: FloatTensor<Self>, num_heads: usize) -> FloatTensor<Self> {
        match kernels_for::<Self>(&qkv) {
            Some(kernels) => kernels.mean_keys(&qkv, num_heads),
            None => composed::mean_keys::<Self>(qkv, num_heads),
        }
    }

    /// See [`cls_scores`](super::cls_scores).
    fn cls_scores(
        qkv: FloatTensor<Self>,
        cls_rows: Arc<Vec<usize>>,
        num_heads: usize,
    ) -> FloatTensor<Self> {
        match kernels_for::<Self>(&qkv) {
            Some(kernels) => kernels.cls_scores(&qkv, &cls_rows, num_heads),
            None => composed::cls_scores::<Self>(qkv, &cls_rows, num_heads),
        }
    }

    /// See [`sum_rows`](super::sum_rows).
    fn sum_rows(input: FloatTensor<Self>, sums: Arc<RowSums>) -> FloatTensor<Self> {
        match kernels_for::<Self>(&input) {
            Some(kernels) => kernels.sum_rows(&input, &sums),
            None => composed::sum_rows::<Self>(input, &sums, Self::FILL),
        }
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl FusedOps for burn::backend::Cube {
    // Each launch costs more than padding, and each new shape may cost a kernel.
    const LENGTH_STEP: fn(&BackendDevice<Self>) -> usize = |_| 16;
    const FILL: fn(usize) -> usize = shared_shape;
}

// The operations run on the server one by one.
#[cfg(feature = "remote")]
impl FusedOps for burn::backend::Remote {}

/// The backend's kernels, if it has any for such a tensor.
pub(super) fn kernels_for<B: FusedOps>(tensor: &FloatTensor<B>) -> Option<&'static dyn Kernels<B>> {
    B::KERNELS.filter(|_| tensor.dtype() == DType::F32)
}
