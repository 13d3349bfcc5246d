//! Fused operations: the few that a Vision Transformer spends its time in.
//!
//! [`FusedOps`] is a Burn backend extension. Its methods have default bodies, [`composed`] of
//! Burn's own operations, so that every backend has them. A backend that has [`Kernels`] of its
//! own (so far Flex, the CPU) runs those instead, and [`autodiff`] runs their backward passes.
//! The rest of the crate knows the functions at the top of this file and nothing below them.
//!
//! Linear layers compute in the floats of their input: weights of another kind are cast to it.

mod autodiff;
mod composed;
pub(crate) mod decisions;
mod device;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "tch")]
mod libtorch;
#[cfg(all(feature = "flex", target_arch = "x86_64"))]
mod low_precision;
#[cfg(not(all(feature = "flex", target_arch = "x86_64")))]
#[path = "low_precision/none.rs"]
mod low_precision;
mod own;
pub(crate) mod prepacked;
mod row_sums;
mod rows;
mod sizes;
mod spans;

use std::sync::Arc;

use burn::backend::tensor::{Device as BackendDevice, FloatTensor};
use burn::backend::{Backend, DType, Dispatch, DispatchTensor, TensorMetadata, backend_extension};
use burn::nn::{Dropout, LayerNorm, Linear};
use burn::tensor::activation::gelu;
use burn::tensor::{Shape, Tensor};

use crate::Precision;
use crate::precision::{cast, widen};

#[cfg(any(feature = "wgpu", feature = "cuda", all(test, feature = "flex")))]
use device::shared_shape;
pub use device::{compiles_for_shapes, computes_here, decides_on_device};
pub(crate) use device::{filled_rows, float_instructions, keeps_tokens_short, rounds_factors};
pub(crate) use low_precision::{Instructions, ShortBlock, ShortLinear};
use own::{Kernels, Mask, Then};
pub(crate) use row_sums::RowSums;
pub(crate) use rows::Rows;
pub(crate) use sizes::Sizes;
pub(crate) use spans::Spans;

/// Attention within each image, heads side by side: `[rows, 3 * hidden]` (queries, keys and
/// values) to `[rows, hidden]`.
pub(crate) fn attention(qkv: Tensor<2>, spans: Arc<Spans>, num_heads: usize) -> Tensor<2> {
    fused(Dispatch::packed_attention(
        qkv.into_dispatch(),
        spans,
        num_heads,
    ))
}

/// As [`attention`], but each row weighs as a key what `key_mask` (`[rows]`, from 0 to 1) says: query
/// i gives key j the weight `m_j e^(S_ij)`, divided by the sum of these over j.
///
/// A gradient reaches the mask, also where it is 0: there it says what attending to the row again
/// would do. At least one row of each sequence that is not hidden weighs more than 0.
pub(crate) fn masked_attention(
    qkv: Tensor<2>,
    key_mask: Tensor<1>,
    spans: Arc<Spans>,
    num_heads: usize,
) -> Tensor<2> {
    let dtype = match qkv.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    fused(Dispatch::masked_attention(
        qkv.into_dispatch(),
        cast(key_mask, dtype).into_dispatch(),
        spans,
        num_heads,
    ))
}

/// As [`attention`], where every image has `tokens` rows. `bias`, `[images, tokens]`, is added to everyone's attention
/// scores for each of them; no gradient reaches it.
pub(crate) fn uniform_attention(
    qkv: Tensor<2>,
    bias: Option<Tensor<2>>,
    tokens: usize,
    num_heads: usize,
) -> Tensor<2> {
    let dtype = qkv.dtype();
    let queries = qkv.into_dispatch();
    fused(match bias {
        None => Dispatch::uniform_attention(queries, tokens, num_heads),
        Some(bias) => {
            let bias = cast(bias, dtype).into_dispatch();
            Dispatch::biased_attention(queries, bias, tokens, num_heads)
        }
    })
}

/// A linear layer, `[rows, inputs]` to `[rows, outputs]`. Kernels that know the precision round the factors to it; elsewhere the
/// input says by its type what is computed in.
pub fn linear(layer: &Linear, input: Tensor<2>, precision: Precision) -> Tensor<2> {
    match parts(layer, input.dtype()) {
        Some([weight, bias]) => {
            let input = input.into_dispatch();
            fused(Dispatch::fused_linear(input, weight, bias, precision))
        }
        None => {
            let weight = cast(layer.weight.val(), input.dtype());
            input.matmul(weight)
        }
    }
}

/// The layer with its weight in this precision, and laid out as the backend's kernels read it,
/// where there are kernels: for [`linear`] and its like, and for nothing else.
pub(crate) fn prepack(mut layer: Linear, precision: Precision) -> Linear {
    layer.weight = layer.weight.map(|weight| precision.round(weight));
    layer.bias = layer
        .bias
        .map(|bias| bias.map(|bias| precision.round(bias)));
    if layer.bias.is_some() {
        let prepacked = |weight: Tensor<2>| fused(Dispatch::prepack(weight.into_dispatch()));
        layer.weight = layer.weight.map(prepacked);
    }
    layer
}

/// A [`linear`] layer, exact GELU, dropout, `[rows, inputs]` to `[rows, outputs]`.
pub fn linear_gelu(
    layer: &Linear,
    input: Tensor<2>,
    dropout: &Dropout,
    precision: Precision,
) -> Tensor<2> {
    let Some([weight, bias]) = parts(layer, input.dtype()) else {
        return dropout.forward(gelu(linear(layer, input, precision)));
    };
    let dropout = probability(dropout, &input);
    fused(Dispatch::fused_linear_gelu(
        input.into_dispatch(),
        weight,
        bias,
        dropout,
        precision,
    ))
}

/// `residual` plus a [`linear`] layer of `input`, after dropout.
pub(crate) fn linear_add(
    layer: &Linear,
    input: Tensor<2>,
    dropout: Option<&Dropout>,
    residual: Tensor<2>,
    precision: Precision,
) -> Tensor<2> {
    let parts = parts(layer, input.dtype()).filter(|_| input.dtype() == residual.dtype());
    let Some([weight, bias]) = parts else {
        let output = linear(layer, input, precision);
        let output = match dropout {
            Some(dropout) => dropout.forward(output),
            None => output,
        };
        return residual.clone() + cast(output, residual.dtype());
    };
    let dropout = dropout.and_then(|dropout| probability(dropout, &input));
    let (input, residual) = (input.into_dispatch(), residual.into_dispatch());
    fused(Dispatch::fused_linear_add(
        input, weight, bias, residual, dropout, precision,
    ))
}

/// The probability with which dropout drops, where it does anything (as [`Dropout`] decides it).
fn probability(dropout: &Dropout, input: &Tensor<2>) -> Option<f64> {
    let drops = dropout.training.is_enabled() && input.device().is_autodiff();
    (drops && dropout.prob > 0.0).then_some(dropout.prob)
}

/// Weight and bias as `dtype`, where there is a bias.
fn parts(layer: &Linear, dtype: DType) -> Option<[DispatchTensor; 2]> {
    let bias = layer.bias.as_ref()?;
    Some([
        cast(layer.weight.val(), dtype).into_dispatch(),
        cast(bias.val(), dtype).into_dispatch(),
    ])
}

fn fused(tensor: DispatchTensor) -> Tensor<2> {
    Tensor::from_dispatch(tensor)
}

/// Layer norm of each row with this epsilon, which [`LayerNorm`] does not tell.
pub fn layer_norm(norm: &LayerNorm, epsilon: f64, input: Tensor<2>) -> Tensor<2> {
    let Some(beta) = &norm.beta else {
        return norm.forward(input);
    };
    let (gamma, beta) = (norm.gamma.val().into_dispatch(), beta.val().into_dispatch());
    fused(Dispatch::fused_layer_norm(
        input.into_dispatch(),
        gamma,
        beta,
        epsilon,
    ))
}

/// Sums of rows: row i of the result, `[results, hidden]`, is the sum of those rows of `input`, `[rows,
/// hidden]`, that `sums` names for it, each times its weight. Each row is named at most once.
pub(crate) fn sum_rows(input: Tensor<2>, sums: Arc<RowSums>) -> Tensor<2> {
    fused(Dispatch::sum_rows(input.into_dispatch(), sums))
}

/// The patches of feature maps, `[batch, channels, height, width]`, each of `patch` by `patch` places: `[batch *
/// patches, channels * patch * patch]`, line by line; channels outermost, then rows, then columns.
pub(crate) fn patches(features: Tensor<4>, patch: usize) -> Tensor<2> {
    fused(Dispatch::patches(features.into_dispatch(), patch))
}

/// The tokens of a batch, `[batch * tokens, hidden]`, from those of its patches, `[batch * patches, hidden]`. `table`,
/// `[tokens, hidden]`, holds the first `prefix` tokens, which are the same for every image, and after them
/// what is added to those of the patches.
pub(crate) fn assemble(patches: Tensor<2>, table: Tensor<2>, prefix: usize) -> Tensor<2> {
    let (patches, table) = (patches.into_dispatch(), table.into_dispatch());
    fused(Dispatch::assemble(patches, table, prefix))
}

/// The keys of `qkv`, `[rows, 3 * hidden]`, averaged over the heads: `[rows, hidden / num_heads]`. No
/// gradient goes through it.
pub(crate) fn mean_keys(qkv: Tensor<2>, num_heads: usize) -> Tensor<2> {
    if let Some(keys) = low_precision::mean_keys(&qkv, num_heads) {
        return keys;
    }
    let qkv = widen(qkv);
    fused(Dispatch::mean_keys(
        qkv.without_autodiff().into_dispatch(),
        num_heads,
    ))
}

/// What each row's image's CLS token makes of the row in each head: query times key, scaled; `[rows, heads]`.
/// `cls_rows` says which row is whose CLS token. No gradient goes through it.
pub(crate) fn cls_scores(qkv: Tensor<2>, cls_rows: Vec<usize>, num_heads: usize) -> Tensor<2> {
    fused(Dispatch::cls_scores(
        qkv.without_autodiff().into_dispatch(),
        Arc::new(cls_rows),
        num_heads,
    ))
}

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

    /// See [`attention`].
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

    /// See [`masked_attention`].
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

    /// See [`uniform_attention`].
    fn uniform_attention(
        qkv: FloatTensor<Self>,
        tokens: usize,
        num_heads: usize,
    ) -> FloatTensor<Self> {
        composed::uniform_attention::<Self>(qkv, None, tokens, num_heads)
    }

    /// See [`uniform_attention`].
    fn biased_attention(
        qkv: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        tokens: usize,
        num_heads: usize,
    ) -> FloatTensor<Self> {
        composed::uniform_attention::<Self>(qkv, Some(bias), tokens, num_heads)
    }

    /// See [`linear`].
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

    /// See [`prepack`].
    fn prepack(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        match kernels_for::<Self>(&weight) {
            Some(kernels) => kernels.prepack(&weight),
            None => weight,
        }
    }

    /// See [`linear_gelu`].
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

    /// See [`linear_add`].
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

    /// See [`layer_norm`].
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

    /// See [`patches`].
    fn patches(features: FloatTensor<Self>, patch: usize) -> FloatTensor<Self> {
        match kernels_for::<Self>(&features) {
            Some(kernels) => kernels.patches(&features, patch),
            None => composed::patches::<Self>(features, patch),
        }
    }

    /// See [`assemble`].
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

    /// See [`mean_keys`].
    fn mean_keys(qkv: FloatTensor<Self>, num_heads: usize) -> FloatTensor<Self> {
        match kernels_for::<Self>(&qkv) {
            Some(kernels) => kernels.mean_keys(&qkv, num_heads),
            None => composed::mean_keys::<Self>(qkv, num_heads),
        }
    }

    /// See [`cls_scores`].
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

    /// See [`sum_rows`].
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
fn kernels_for<B: FusedOps>(tensor: &FloatTensor<B>) -> Option<&'static dyn Kernels<B>> {
    B::KERNELS.filter(|_| tensor.dtype() == DType::F32)
}

#[cfg(all(test, feature = "flex"))]
mod tests;
