//! The operations, composed of Burn's own: for every backend that has no kernels, and what
//! kernels are tested against.

use burn::backend::ops::AttentionModuleOptions;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorData, TensorMetadata};
use burn::tensor::{Distribution, Shape, Slice};

use super::Spans;

/// A score this low leaves an attention weight of exactly zero in every float type.
const HIDDEN_SCORE: f32 = -3.0e4;

/// One batched attention for each run of sequences of equal length.
pub(super) fn attention<B: Backend>(
    qkv: FloatTensor<B>,
    spans: &Spans,
    num_heads: usize,
) -> FloatTensor<B> {
    let hidden = qkv.shape()[1] / 3;
    let width = hidden / num_heads;
    let mut outputs = Vec::new();
    for (start, count, tokens) in runs(spans) {
        let rows = start..start + count * tokens;
        let group = B::float_slice(qkv.clone(), &[Slice::from(rows.clone())]);
        let group = B::float_reshape(group, Shape::from([count, tokens, 3, num_heads, width]));
        let group = B::float_permute(group, &[2, 0, 3, 1, 4]);
        let [query, key, value] = [0, 1, 2].map(|part| {
            let part = B::float_slice(group.clone(), &[Slice::from(part..part + 1)]);
            B::float_reshape(part, Shape::from([count, num_heads, tokens, width]))
        });
        let bias = spans.visible.as_ref().map(|visible| {
            let score = |visible: &bool| if *visible { 0.0 } else { HIDDEN_SCORE };
            let scores: Vec<f32> = visible[rows].iter().map(score).collect();
            let bias = TensorData::new(scores, [count, 1, 1, tokens]);
            let bias = bias.convert_dtype(qkv.dtype());
            let bias = B::float_from_data(bias, &qkv.device());
            B::float_expand(bias, Shape::from([count, num_heads, tokens, tokens]))
        });
        let options = AttentionModuleOptions::default();
        let heads = B::attention(query, key, value, None, bias, options);
        let heads = B::float_swap_dims(heads, 1, 2);
        outputs.push(B::float_reshape(
            heads,
            Shape::from([count * tokens, hidden]),
        ));
    }
    match outputs.len() {
        1 => outputs.remove(0),
        _ => B::float_cat(outputs, 0),
    }
}

/// Runs of neighbours of equal length: first row, sequences, length of each.
fn runs(spans: &Spans) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (start, length) in spans.iter() {
        match runs.last_mut() {
            Some((_, count, tokens)) if *tokens == length => *count += 1,
            _ => runs.push((start, 1, length)),
        }
    }
    runs
}

/// `input * weight + bias`.
pub(super) fn linear<B: Backend>([input, weight, bias]: [FloatTensor<B>; 3]) -> FloatTensor<B> {
    B::linear(input, weight, Some(bias))
}

/// Exact GELU of a linear layer, then dropout.
pub(super) fn linear_gelu<B: Backend>(
    layer: [FloatTensor<B>; 3],
    dropout: Option<f64>,
) -> FloatTensor<B> {
    drop_values::<B>(B::gelu(linear::<B>(layer)), dropout)
}

/// A linear layer, after dropout added to `residual`.
pub(super) fn linear_add<B: Backend>(
    layer: [FloatTensor<B>; 3],
    residual: FloatTensor<B>,
    dropout: Option<f64>,
) -> FloatTensor<B> {
    B::float_add(residual, drop_values::<B>(linear::<B>(layer), dropout))
}

/// Dropout with this probability, as Burn's module does it.
fn drop_values<B: Backend>(tensor: FloatTensor<B>, dropout: Option<f64>) -> FloatTensor<B> {
    let Some(probability) = dropout else {
        return tensor;
    };
    let keep = Distribution::Bernoulli(1.0 - probability);
    let kept = B::float_random(
        tensor.shape(),
        keep,
        &tensor.device(),
        tensor.dtype().into(),
    );
    B::float_mul_scalar(
        B::float_mul(tensor, kept),
        (1.0 / (1.0 - probability)).into(),
    )
}

/// Each row normalised, times gamma, plus beta.
pub(super) fn layer_norm<B: Backend>(
    [input, gamma, beta]: [FloatTensor<B>; 3],
    epsilon: f64,
) -> FloatTensor<B> {
    B::layer_norm(input, gamma, Some(beta), epsilon)
}
