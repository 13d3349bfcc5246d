//! The operations, composed of Burn's own: for every backend that has no kernels, and what
//! kernels are tested against.

mod attention;
mod uploads;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorData, TensorMetadata};
use burn::tensor::{Distribution, IndexingUpdateOp, Shape, Slice};

use super::RowSums;
use uploads::{indices, upload};

pub(super) use attention::{attention, uniform_attention};

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
pub(super) fn drop_values<B: Backend>(
    tensor: FloatTensor<B>,
    dropout: Option<f64>,
) -> FloatTensor<B> {
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

/// Places of a patch side by side.
pub(super) fn patches<B: Backend>(features: FloatTensor<B>, patch: usize) -> FloatTensor<B> {
    let shape = features.shape();
    let (batch, channels) = (shape[0], shape[1]);
    let (rows, columns) = (shape[2] / patch, shape[3] / patch);
    let shape = Shape::from([batch, channels, rows, patch, columns, patch]);
    let places = B::float_reshape(features, shape);
    // To [batch, rows, columns, channels, patch, patch], without a permutation, which no remote device gets right.
    let places = B::float_swap_dims(places, 1, 2);
    let places = B::float_swap_dims(places, 3, 4);
    let places = B::float_swap_dims(places, 2, 3);
    let shape = Shape::from([batch * rows * columns, channels * patch * patch]);
    B::float_reshape(places, shape)
}

/// The same tokens in front of each image's patches, and the rest of the table added to these.
pub(super) fn assemble<B: Backend>(
    patches: FloatTensor<B>,
    table: FloatTensor<B>,
    prefix: usize,
) -> FloatTensor<B> {
    let (tokens, hidden) = (table.shape()[0], table.shape()[1]);
    let batch = patches.shape()[0] / (tokens - prefix);
    let of_table = |rows: std::ops::Range<usize>| {
        let shape = Shape::from([1, rows.len(), hidden]);
        let part = B::float_slice(table.clone(), &[Slice::from(rows), Slice::from(0..hidden)]);
        B::float_reshape(part, shape)
    };
    let front = B::float_expand(of_table(0..prefix), Shape::from([batch, prefix, hidden]));
    let patches = B::float_reshape(patches, Shape::from([batch, tokens - prefix, hidden]));
    let patches = B::float_add(patches, of_table(prefix..tokens));
    let all = B::float_cat(vec![front, patches], 1);
    B::float_reshape(all, Shape::from([batch * tokens, hidden]))
}

/// The second third of the columns, averaged over the heads.
pub(super) fn mean_keys<B: Backend>(qkv: FloatTensor<B>, num_heads: usize) -> FloatTensor<B> {
    let (rows, hidden) = (qkv.shape()[0], qkv.shape()[1] / 3);
    let columns = [Slice::from(0..rows), Slice::from(hidden..2 * hidden)];
    let width = hidden / num_heads;
    let keys = B::float_slice(qkv, &columns);
    let keys = B::float_reshape(keys, Shape::from([rows, num_heads, width]));
    B::float_reshape(B::float_mean_dim(keys, 1), Shape::from([rows, width]))
}

/// Queries of `cls_rows` times each row's key, scaled.
pub(super) fn cls_scores<B: Backend>(
    qkv: FloatTensor<B>,
    cls_rows: &[usize],
    num_heads: usize,
) -> FloatTensor<B> {
    let (rows, hidden) = (qkv.shape()[0], qkv.shape()[1] / 3);
    let width = hidden / num_heads;
    let device = qkv.device();
    let part = |part: usize| {
        let columns = part * hidden..(part + 1) * hidden;
        B::float_slice(qkv.clone(), &[Slice::from(0..rows), Slice::from(columns)])
    };
    let queries = B::float_select(part(0), 0, indices::<B>(cls_rows, &device));
    let products = B::float_mul(queries, part(1));
    let products = B::float_reshape(products, Shape::from([rows, num_heads, width]));
    let sums = B::float_reshape(
        B::float_sum_dim(products, 2),
        Shape::from([rows, num_heads]),
    );
    B::float_mul_scalar(sums, (1.0 / (width as f64).sqrt()).into())
}

/// The sums' rows side by side, and those that are summed added up. `fill` says how many terms there are to
/// be instead of so many; those that it adds add nothing.
pub(super) fn sum_rows<B: Backend>(
    input: FloatTensor<B>,
    sums: &RowSums,
    fill: fn(usize) -> usize,
) -> FloatTensor<B> {
    let device = input.device();
    let (hidden, dtype) = (input.shape()[1], input.dtype());
    let one_each = |(at, &start): (usize, &usize)| at == start;
    let sums_up = !sums.starts.iter().enumerate().all(one_each);
    let (mut rows, mut weights): (Vec<usize>, Vec<f32>) = sums.terms.iter().copied().unzip();
    if sums_up {
        rows.resize(fill(rows.len()), 0);
        weights.resize(rows.len(), 0.0);
    }
    let selected = B::float_select(input, 0, indices::<B>(&rows, &device));
    let weighted = if weights.iter().all(|&weight| weight == 1.0) {
        selected
    } else {
        let count = weights.len();
        let weights = TensorData::new(weights, [count, 1]);
        B::float_mul(selected, upload::<B>(weights, dtype, &device))
    };
    if !sums_up {
        return weighted;
    }
    let results = (0..sums.results()).flat_map(|result| {
        let terms = sums.starts[result + 1] - sums.starts[result];
        std::iter::repeat_n(result, terms)
    });
    let mut results: Vec<usize> = results.collect();
    results.resize(rows.len(), 0);
    let shape = Shape::from([sums.results(), hidden]);
    B::float_select_assign(
        B::float_zeros(shape, &device, dtype.into()),
        0,
        indices::<B>(&results, &device),
        weighted,
        IndexingUpdateOp::Add,
    )
}

/// Each row normalised, times gamma, plus beta.
pub(super) fn layer_norm<B: Backend>(
    [input, gamma, beta]: [FloatTensor<B>; 3],
    epsilon: f64,
) -> FloatTensor<B> {
    B::layer_norm(input, gamma, Some(beta), epsilon)
}
