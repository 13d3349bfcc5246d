//! Fused operations: the few that a Vision Transformer spends its time in.
//!
//! [`FusedOps`] is a Burn backend extension. Its methods have default bodies, [`composed`] of
//! Burn's own operations, so that every backend has them. A backend that has [`Kernels`] of its
//! own (so far Flex, the CPU) runs those instead, and [`autodiff`] runs their backward passes.
//! The rest of the crate knows the functions of this file.
//!
//! Linear layers compute in the floats of their input: weights of another kind are cast to it.

mod autodiff;
mod composed;
pub(crate) mod decisions;
mod device;
#[cfg(feature = "flex")]
mod flex;
mod fused_ops;
#[cfg(feature = "tch")]
mod libtorch;
#[cfg(all(feature = "flex", target_arch = "x86_64"))]
mod low_precision;
#[cfg(not(all(feature = "flex", target_arch = "x86_64")))]
#[path = "low_precision/none.rs"]
mod low_precision;
mod own;
pub(crate) mod prepacked;
mod reads;
mod row_sums;
mod rows;
mod sizes;
mod spans;

use std::sync::Arc;

use burn::backend::{DType, Dispatch, DispatchTensor};
use burn::nn::{Dropout, LayerNorm, Linear};
use burn::tensor::Tensor;
use burn::tensor::activation::gelu;

use crate::Precision;
use crate::precision::{cast, widen};

pub use device::{compiles_for_shapes, computes_here, decides_on_device};
pub(crate) use device::{filled_rows, float_instructions, keeps_tokens_short, rounds_factors};
use fused_ops::FusedOps;
pub(crate) use low_precision::{Instructions, ShortBlock, ShortLinear};
pub(crate) use reads::{ReadInputs, Reads};
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

/// What reading changes of each image's attention output, before its projection, `[images, hidden]`; and how much each parked
/// token is attended to, averaged over heads, `[reads, 1]`, one image's after the other's. None where the device has no kernel
/// for it, or records for a backward pass.
pub(crate) fn read(inputs: ReadInputs<'_>, reads: &Reads) -> Option<(Tensor<2>, Tensor<2>)> {
    #[cfg(feature = "flex")]
    let read = flex::read(inputs, reads);
    #[cfg(not(feature = "flex"))]
    let read = None;
    read
}

#[cfg(all(test, feature = "flex"))]
mod tests;
