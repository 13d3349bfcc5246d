//! What a pass with uniform counts does between its blocks: by kernels where a backend has them, else by tensor
//! operations that never go to the host.

use burn::prelude::*;

use super::{Rows, Sizes};
use crate::precision::{cast, widen};
use crate::{MergeWeights, UniformMerge};

/// The most similar other patches of an image's tokens.
#[derive(Clone, Debug)]
pub struct BestMatch {
    /// The cosine of the two tokens' keys, `[batch, tokens]`; minus infinity where a token does not seek another.
    pub similarity: Tensor<2>,
    /// The place of the other token, `[batch, tokens]`.
    pub into: Tensor<2, Int>,
    /// How many tokens of an image seek.
    pub seekers: usize,
}

/// Keys averaged over the heads, as unit vectors: `[batch * tokens, 3 * hidden]` to `[batch, tokens, width]`.
pub(crate) fn unit_keys(qkv: Tensor<2>, batch: usize, heads: usize) -> Tensor<3> {
    let [rows, columns] = qkv.dims();
    let width = columns / 3 / heads;
    let shape = [batch, rows / batch, width];
    #[cfg(feature = "tch")]
    if let Some(keys) = super::libtorch::gpu::unit_keys(&qkv, heads) {
        return keys.reshape(shape);
    }
    let keys = widen(super::mean_keys(qkv, heads));
    let norms = keys.clone().square().sum_dim(1).sqrt();
    (keys / norms.clamp_min(1e-12)).reshape(shape)
}

/// Bipartite soft matching (Bolya et al., "Token Merging: Your ViT But Faster", 2023, section 3.1): every token at an
/// even place after the first `prefix` ones seeks the most similar one at an odd place; the first of equals. `keys`
/// are unit vectors, `[batch, tokens, width]`. None where nobody seeks or nobody is there to be found.
pub fn best_match(keys: Tensor<3>, prefix: usize) -> Option<BestMatch> {
    let [batch, tokens, _] = keys.dims();
    let seekers = (prefix..tokens).filter(|place| place % 2 == 0).count();
    if seekers == 0 || seekers + prefix == tokens {
        return None;
    }
    #[cfg(feature = "tch")]
    if let Some((similarity, into)) = super::libtorch::gpu::best_match(&keys, prefix) {
        return Some(BestMatch {
            similarity,
            into,
            seekers,
        });
    }
    let places = Tensor::<1, Int>::arange(0..tokens as i64, &keys.device());
    let odd = places.clone().remainder_scalar(2).equal_elem(1);
    let is_patch = places.greater_equal_elem(prefix as i64);
    let found = is_patch.clone().bool_and(odd.clone());
    let idle = is_patch.bool_not().bool_or(odd);
    let similarities = keys.clone().matmul(keys.swap_dims(1, 2));
    let all = [batch, tokens, tokens];
    let aside = found.bool_not().reshape([1, 1, tokens]).expand(all);
    let similarities = similarities.mask_fill(aside, f32::NEG_INFINITY);
    let (similarity, into) = similarities.max_dim_with_indices(2);
    let idle = idle.reshape([1, tokens]).expand([batch, tokens]);
    let similarity: Tensor<2> = similarity.squeeze_dim(2);
    Some(BestMatch {
        similarity: similarity.mask_fill(idle, f32::NEG_INFINITY),
        into: into.squeeze_dim(2),
        seekers,
    })
}

/// The first `prefix` tokens of each image and the `count` others that score highest, the first of equals.
/// `[batch, tokens]`, and so is the result.
///
/// Without a sort, which some backends do on the host.
pub fn highest(scores: Tensor<2>, prefix: usize, count: usize) -> Tensor<2, Bool> {
    #[cfg(feature = "tch")]
    if let Some(chosen) = super::libtorch::gpu::highest(&scores, prefix, count) {
        return chosen;
    }
    let [batch, tokens] = scores.dims();
    let device = scores.device();
    let first = Tensor::full([batch, prefix], f32::INFINITY, &device);
    let scores = Tensor::cat(vec![first, scores.narrow(1, prefix, tokens - prefix)], 1);
    let all = [batch, tokens, tokens];
    let own = scores.clone().unsqueeze_dim::<3>(2).expand(all);
    let others = scores.unsqueeze_dim::<3>(1).expand(all);
    let places = Tensor::<1, Int>::arange(0..tokens as i64, &device);
    let square = [1, tokens, tokens];
    let before = places.clone().reshape([1, 1, tokens]).expand(square);
    let earlier = before.lower(places.reshape([1, tokens, 1]).expand(square));
    let equal = others.clone().equal(own.clone());
    let earlier = equal.bool_and(earlier.expand(all));
    let higher = others.greater(own).bool_or(earlier);
    let ranks: Tensor<2, Int> = higher.int().sum_dim(2).squeeze_dim(2);
    ranks.lower_elem((prefix + count) as i64)
}

/// The `left` tokens of each image that stay, each having taken in what goes into it, and their sizes where those count.
/// `rows` is `[batch * tokens, hidden]`.
///
/// Selecting rows and adding rows up are one matrix product: each row of the result is a weighted sum of the image's
/// tokens.
pub(crate) fn merge(
    rows: &Rows,
    keep: &Tensor<2, Bool>,
    left: usize,
    merge: Option<UniformMerge>,
    sizes: Option<Sizes>,
) -> (Rows, Option<Sizes>) {
    let counts = sizes.map(|sizes| sizes.counts);
    #[cfg(feature = "tch")]
    if let Some(merged) =
        super::libtorch::gpu::merge(rows, keep, left, merge.as_ref(), counts.as_ref())
    {
        return merged;
    }
    let rows = rows.sum();
    let [batch, tokens] = keep.dims();
    let [_, hidden] = rows.dims();
    // Where a kept token will stand; and then where each token goes.
    let places = keep.clone().int().cumsum(1) - 1;
    let places = match &merge {
        Some(merge) => {
            let of_target = places.clone().gather(1, merge.into.clone());
            of_target.mask_where(keep.clone(), places)
        }
        None => places.mask_fill(keep.clone().bool_not(), -1),
    };
    let all = [batch, left, tokens];
    let results = Tensor::<1, Int>::arange(0..left as i64, &rows.device());
    let results = results.reshape([1, left, 1]).expand(all);
    let goes = places.unsqueeze_dim::<3>(1).expand(all).equal(results);
    let sums = goes.float();
    let (sums, counts) = match merge.map(|merge| merge.weights) {
        Some(MergeWeights::Sizes) => {
            let weighted = match counts {
                Some(counts) => sums * counts.unsqueeze_dim::<3>(1),
                None => sums,
            };
            let counts = weighted.clone().sum_dim(2);
            (weighted / counts.clone(), Some(counts.squeeze_dim(2)))
        }
        weights => {
            // A token keeps its size: others do not count.
            let counts = counts.map(|counts| {
                let of_kept = counts * keep.clone().float();
                let of_kept = sums.clone() * of_kept.unsqueeze_dim::<3>(1);
                of_kept.sum_dim(2).squeeze_dim(2)
            });
            let sums = match weights {
                Some(MergeWeights::Given(weights)) => sums * weights.unsqueeze_dim::<3>(1),
                _ => sums,
            };
            (sums, counts)
        }
    };
    let sums = cast(sums, rows.dtype());
    let rows = sums.matmul(rows.reshape([batch, tokens, hidden]));
    let rows = Rows::new(rows.reshape([batch * left, hidden]));
    (rows, counts.map(Sizes::from))
}
