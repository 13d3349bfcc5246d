//! Pairs judged on this program's threads.
//!
//! What is computed for a pair is so little that an operation of the backend for each step would cost more.

use apt_vit_model::Sequences;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::matching::Pair;
use crate::similarity::{LANES, ROWS, products};

/// What the agent is told of each pair beside the tokens: the cosine of the keys, and the logarithms of how many
/// patches each of the two stands for.
pub(super) const HINTS: usize = 3;

/// The score of each pair, slot by slot. `view` is the agent's view of every row, `[rows, 3 * width]`.
pub(super) fn judge_pairs(
    view: &[f32],
    weights: &Weights,
    sequences: &Sequences,
    pairs: &[Vec<Pair>],
) -> Vec<f32> {
    let of_slot = |(slot, pairs): (usize, &Vec<Pair>)| {
        Arch::new().dispatch(Judge {
            view,
            weights,
            sequences,
            cls: sequences.starts()[slot],
            pairs,
        })
    };
    let judged = pairs.par_iter().enumerate().map(of_slot);
    judged.collect::<Vec<_>>().concat()
}

/// The weights of a [`PairAgent`](super::PairAgent) after its view.
pub(super) struct Weights {
    /// A number of columns after the other, as [`side_by_side`] lays them out.
    difference: Vec<[f32; LANES]>,
    hints: Vec<f32>,
    output: Vec<f32>,
    prior: Vec<f32>,
    bias: f32,
}

impl Weights {
    /// `difference` is `[width, width]`, `hints` `[HINTS, width]`, `output` `[width]`, `prior` `[HINTS]`.
    pub fn new(
        difference: &[f32],
        hints: Vec<f32>,
        output: Vec<f32>,
        prior: Vec<f32>,
        bias: f32,
    ) -> Self {
        Self {
            difference: side_by_side(difference, output.len()),
            hints,
            output,
            prior,
            bias,
        }
    }
}

/// Scores the pairs of one slot, with the widest vectors of this machine. (Not a closure, which would be
/// compiled without them.)
struct Judge<'a> {
    /// Of every row.
    view: &'a [f32],
    weights: &'a Weights,
    sequences: &'a Sequences,
    /// The row of CLS.
    cls: usize,
    pairs: &'a [Pair],
}

impl WithSimd for Judge<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f32> {
        let weights = self.weights;
        let width = weights.output.len();
        let part = |index: usize, row: usize| {
            let start = (3 * row + index) * width;
            &self.view[start..start + width]
        };
        let size = |row: usize| self.sequences.log_size(row);
        let mut inner: [Vec<f32>; ROWS] = std::array::from_fn(|_| vec![0.0; width]);
        let mut apart = inner.clone();
        let mut judged = Vec::with_capacity(self.pairs.len());
        for pairs in self.pairs.chunks(ROWS) {
            for (apart, pair) in apart.iter_mut().zip(pairs) {
                let ends = part(2, pair.from).iter().zip(part(2, pair.into));
                for (apart, (from, into)) in apart.iter_mut().zip(ends) {
                    *apart = (into - from).abs();
                }
            }
            let vectors = apart.each_ref().map(Vec::as_slice);
            for (block, columns) in weights.difference.chunks_exact(width).enumerate() {
                for (inner, products) in inner.iter_mut().zip(products(vectors, columns)) {
                    let inner = inner[block * LANES..].iter_mut().zip(products);
                    inner.for_each(|(inner, product)| *inner = product);
                }
            }
            for (inner, pair) in inner.iter_mut().zip(pairs) {
                let hints = [pair.similarity, size(pair.from), size(pair.into)];
                let sums = part(0, pair.from).iter().zip(part(1, self.cls));
                for (inner, (from, cls)) in inner.iter_mut().zip(sums) {
                    *inner += from + cls;
                }
                add_product(inner, &hints, &weights.hints);
                let mut scores = [0.0; LANES];
                let parts = inner.chunks(LANES).zip(weights.output.chunks(LANES));
                for (inner, weights) in parts {
                    let terms = inner.iter().zip(weights);
                    for (score, (inner, weight)) in scores.iter_mut().zip(terms) {
                        *score += inner.max(0.0) * weight;
                    }
                }
                let prior: f32 = hints.iter().zip(&weights.prior).map(|(a, b)| a * b).sum();
                judged.push(scores.iter().sum::<f32>() + prior + weights.bias);
            }
        }
        judged
    }
}

/// `[rows, columns]` as so many columns side by side, row by row, then the next; zeros where there are none.
fn side_by_side(matrix: &[f32], columns: usize) -> Vec<[f32; LANES]> {
    let first = (0..columns).step_by(LANES);
    let blocks = first.flat_map(|first| {
        let rows = matrix.chunks_exact(columns);
        rows.map(move |row| {
            let mut block = [0.0; LANES];
            let row = &row[first..columns.min(first + LANES)];
            block[..row.len()].copy_from_slice(row);
            block
        })
    });
    blocks.collect()
}

/// Adds `values` times `matrix`, `[values, sums]`, to `sums`.
#[inline(always)]
fn add_product(sums: &mut [f32], values: &[f32], matrix: &[f32]) {
    for (&value, row) in values.iter().zip(matrix.chunks_exact(sums.len())) {
        for (sum, weight) in sums.iter_mut().zip(row) {
            *sum += value * weight;
        }
    }
}
