//! The kernels in `tokens.cu` on LibTorch's tensors. NVIDIA's run-time compiler makes them when they are first used; where
//! it is not there, or a shape is not theirs, tensor operations do the same.

use burn::backend::LibTorch;
use burn::nn::LayerNorm;
use burn::prelude::*;
use tch::{Kind, Tensor as Torch};

use super::program::{Launch, Program};
use crate::kernels::{Rows, Sizes};
use crate::{MergeWeights, UniformMerge};

const WARP: usize = 32;
/// Threads of a block.
const THREADS: usize = 128;
/// Threads of a block that look for matches of the same seekers.
const PARTS: usize = 4;
/// Rows are normed by a warp, eight values a thread at a time, and so often.
const WIDEST_ROW: usize = 8 * WARP * 8;
/// LibTorch's attention reads a bias whose rows begin at multiples of so many values.
const ALIGNED: usize = 8;

/// Keys averaged over the heads, as unit vectors: `[rows, 3 * hidden]` to `[rows, width]`.
pub(crate) fn unit_keys(qkv: &Tensor<2>, heads: usize) -> Option<Tensor<2>> {
    let qkv = torch(qkv)?;
    let [rows, columns] = sizes(&qkv)?;
    let width = columns / 3 / heads;
    let program = Program::for_keys(&qkv, width)?;
    let out = empty(&[rows, width], Kind::Float, &qkv);
    program.run(&Launch {
        kernel: "unit_keys",
        kind: Some(qkv.kind()),
        blocks: [rows.div_ceil(THREADS / WARP), 1],
        threads: THREADS,
        shared: 0,
        tensors: &[Some(&qkv), Some(&out)],
        numbers: &[rows, heads],
        real: None,
    })?;
    Some(float(out))
}

/// The similarity and the place of every seeking token's best match; see `decisions::best_match`.
pub(crate) fn best_match(keys: &Tensor<3>, prefix: usize) -> Option<(Tensor<2>, Tensor<2, Int>)> {
    let keys = torch(keys)?;
    let [batch, tokens, width] = sizes(&keys)?;
    let program = Program::for_keys(&keys, width)?;
    let similarity = empty(&[batch, tokens], Kind::Float, &keys);
    let into = empty(&[batch, tokens], Kind::Int64, &keys);
    let seekers = tokens.div_ceil(2);
    program.run(&Launch {
        kernel: "best_match",
        kind: None,
        blocks: [batch, seekers.div_ceil(THREADS / PARTS)],
        threads: THREADS,
        shared: 0,
        tensors: &[Some(&keys), Some(&similarity), Some(&into)],
        numbers: &[tokens, prefix],
        real: None,
    })?;
    Some((
        float(similarity),
        Tensor::from_primitive::<LibTorch>(super::new(into)),
    ))
}

/// The prefix and the `count` tokens after it that score highest; see `decisions::highest`.
pub(crate) fn highest(scores: &Tensor<2>, prefix: usize, count: usize) -> Option<Tensor<2, Bool>> {
    let scores = torch(scores)?;
    let [batch, tokens] = sizes(&scores)?;
    let program = Program::any(&scores)?;
    let chosen = empty(&[batch, tokens], Kind::Bool, &scores);
    program.run(&Launch {
        kernel: "highest",
        kind: None,
        blocks: [batch, 1],
        threads: THREADS,
        shared: tokens,
        tensors: &[Some(&scores), Some(&chosen)],
        numbers: &[tokens, prefix, count],
        real: None,
    })?;
    Some(Tensor::from_primitive::<LibTorch>(super::new(chosen)))
}

/// The rows that are left and their sizes where those count; see `decisions::merge`.
pub(crate) fn merge(
    rows: &Rows,
    keep: &Tensor<2, Bool>,
    left: usize,
    merge: Option<&UniformMerge>,
    counts: Option<&Tensor<2>>,
) -> Option<(Rows, Option<Sizes>)> {
    let tokens = torch(&rows.tokens)?;
    let added = torch_or_none(rows.added.as_ref())?;
    let keep = keep.clone().try_into_primitive::<LibTorch>().ok()?;
    let keep = keep.tensor.contiguous();
    let ([batch, count], [_, hidden]) = (sizes(&keep)?, sizes(&tokens)?);
    let program = Program::any(&tokens)?;
    let mean = merge.is_some_and(|merge| matches!(merge.weights, MergeWeights::Sizes));
    // Sizes that neither count nor are there to be selected.
    let is_theirs = mean || counts.is_none();
    if !hidden.is_multiple_of(4) || left > count || !is_theirs {
        return None;
    }
    let removed = count - left;
    let into = match merge {
        Some(merge) => {
            let into = merge.into.clone().try_into_primitive::<LibTorch>().ok()?;
            Some(into.tensor.to_kind(Kind::Int64).contiguous())
        }
        None => None,
    };
    let weights = torch_or_none(match merge.map(|merge| &merge.weights) {
        Some(MergeWeights::Given(weights)) => Some(weights),
        Some(MergeWeights::Sizes) => counts,
        None => None,
    })?;

    let [source, gone, target] =
        [left, removed, removed].map(|count| empty(&[batch, count.max(1)], Kind::Int, &tokens));
    program.run(&Launch {
        kernel: "plan",
        kind: None,
        blocks: [batch, 1],
        threads: WARP,
        shared: count,
        tensors: &[
            Some(&keep),
            into.as_ref(),
            Some(&source),
            Some(&gone),
            Some(&target),
        ],
        numbers: &[count, left, removed],
        real: None,
    })?;

    let out = empty(&[batch * left, hidden], tokens.kind(), &tokens);
    let room = left.next_multiple_of(ALIGNED);
    let sums = mean.then(|| empty(&[batch, left], Kind::Float, &tokens));
    let logarithms = mean.then(|| empty(&[batch, room], tokens.kind(), &tokens));
    let members = if into.is_some() { removed } else { 0 };
    program.run(&Launch {
        kernel: "merge",
        kind: Some(tokens.kind()),
        blocks: [left, batch],
        threads: (hidden / 4).next_multiple_of(WARP).min(2 * THREADS),
        shared: removed.max(1),
        tensors: &[
            Some(&tokens),
            added.as_ref(),
            Some(&source),
            Some(&gone),
            Some(&target),
            weights.as_ref(),
            Some(&out),
            sums.as_ref(),
            logarithms.as_ref(),
        ],
        numbers: &[count, left, members, hidden, room, usize::from(mean)],
        real: None,
    })?;
    let sizes = sums.zip(logarithms).map(|(sums, logarithms)| Sizes {
        counts: float(sums),
        logarithms: float(logarithms.narrow(1, 0, left as i64)),
    });
    Some((Rows::new(float(out)), sizes))
}

/// Is a sum computed with the norm that follows it?
pub(crate) fn adds_with_norm(tokens: &Tensor<2>) -> bool {
    let [_, hidden] = tokens.dims();
    torch(tokens).is_some_and(|tokens| norms(&tokens, hidden).is_some())
}

/// The sum of the rows, and its norm.
pub(crate) fn add_norm_of(
    rows: &Rows,
    norm: &LayerNorm,
    epsilon: f64,
) -> Option<(Tensor<2>, Tensor<2>)> {
    let tokens = torch(&rows.tokens)?;
    let added = torch_or_none(rows.added.as_ref())?;
    let gamma = torch(&norm.gamma.val())?;
    let beta = torch(&norm.beta.as_ref()?.val())?;
    let (sum, normed) = add_norm(&tokens, added.as_ref(), &gamma, &beta, epsilon)?;
    Some((
        sum.map_or_else(|| rows.tokens.clone(), float),
        float(normed),
    ))
}

/// The sum of `tokens` and `added` where there is something to add, and the layer norm, in the floats of the tokens.
pub(crate) fn add_norm(
    tokens: &Torch,
    added: Option<&Torch>,
    gamma: &Torch,
    beta: &Torch,
    epsilon: f64,
) -> Option<(Option<Torch>, Torch)> {
    let tokens = tokens.contiguous();
    let [rows, hidden] = sizes(&tokens)?;
    let program = norms(&tokens, hidden)?;
    let [gamma, beta] = [gamma, beta].map(|tensor| tensor.to_kind(Kind::Float).contiguous());
    let normed = empty(&[rows, hidden], tokens.kind(), &tokens);
    let sum = added.map(|_| empty(&[rows, hidden], tokens.kind(), &tokens));
    program.run(&Launch {
        kernel: "add_norm",
        kind: Some(tokens.kind()),
        blocks: [rows.div_ceil(THREADS / WARP), 1],
        threads: THREADS,
        shared: 0,
        tensors: &[
            Some(&tokens),
            added,
            Some(&gamma),
            Some(&beta),
            sum.as_ref(),
            Some(&normed),
        ],
        numbers: &[rows, hidden],
        real: Some(epsilon as f32),
    })?;
    Some((sum, normed))
}

/// The program, if its norm is for such rows.
fn norms(tokens: &Torch, hidden: usize) -> Option<std::sync::Arc<Program>> {
    let is_theirs = hidden.is_multiple_of(8) && hidden <= WIDEST_ROW;
    let kind = [Kind::Float, Kind::BFloat16, Kind::Half].contains(&tokens.kind());
    if is_theirs && kind {
        Program::any(tokens)
    } else {
        None
    }
}

/// LibTorch's tensor, its values side by side, if it is one and on an NVIDIA GPU.
fn torch<const D: usize>(tensor: &Tensor<D>) -> Option<Torch> {
    let tensor = tensor.clone().try_into_primitive::<LibTorch>().ok()?.tensor;
    tensor.device().is_cuda().then(|| tensor.contiguous())
}

/// None where the tensor is not such; Some of none where there is none.
fn torch_or_none<const D: usize>(tensor: Option<&Tensor<D>>) -> Option<Option<Torch>> {
    match tensor {
        Some(tensor) => Some(Some(torch(tensor)?)),
        None => Some(None),
    }
}

fn sizes<const D: usize>(tensor: &Torch) -> Option<[usize; D]> {
    let sizes = tensor.size().into_iter().map(|size| size as usize);
    sizes.collect::<Vec<_>>().try_into().ok()
}

fn empty(shape: &[usize], kind: Kind, like: &Torch) -> Torch {
    let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    Torch::empty(shape, (kind, like.device()))
}

fn float<const D: usize>(tensor: Torch) -> Tensor<D> {
    Tensor::from_primitive::<LibTorch>(super::new(tensor))
}
