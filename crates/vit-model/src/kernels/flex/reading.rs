//! CLS reads parked tokens, an image at a time, while they are in the cache.

use burn::backend::flex::FlexTensor;
use burn::backend::{DType, Flex};
use burn::tensor::Tensor;

use super::buffer::{Buffer, with_scratch};
use super::math::{LANES, exp_scores, max, sum_of, vectorised};
use super::matrix::Matrix;
use super::norm::normalise;
use super::{floats, parallel};
use crate::kernels::reads::{ReadInputs, Reads};

/// Work on one value of a parked token, in floating-point operations of a matrix product.
const WORK: usize = 64;

/// See [`read`](crate::kernels::read). None where the tensors are not Flex's, or not of 32-bit floats.
pub(in crate::kernels) fn read(
    inputs: ReadInputs<'_>,
    reads: &Reads,
) -> Option<(Tensor<2>, Tensor<2>)> {
    if inputs.qkv.dtype() != DType::F32 {
        return None;
    }
    let of = |tensor: &Tensor<2>| floats(tensor.clone());
    let groups: Option<Vec<FlexTensor>> = inputs.groups.iter().map(of).collect();
    let groups = groups?;
    let groups: Vec<Matrix<'_>> = groups.iter().map(Matrix::new).collect();
    let [scale, shift] = inputs.drift;
    let (qkv, scale, shift) = (of(inputs.qkv)?, of(scale)?, of(shift)?);
    let (norm, projections) = (of(inputs.norm)?, of(inputs.projections)?);
    let (biases, bias) = (of(inputs.biases)?, of(inputs.bias)?);
    let reader = Reader {
        qkv: Matrix::new(&qkv),
        tokens: tokens(&groups),
        drift: [&scale, &shift].map(Matrix::new),
        norm: Matrix::new(&norm).values,
        projections: Matrix::new(&projections),
        biases: Matrix::new(&biases).values,
        bias: Matrix::new(&bias).values,
        reads,
    };
    let hidden = reader.hidden();
    let ends = reads.parked.iter().scan(0, |end, tokens| {
        *end += tokens.len();
        Some(*end)
    });
    let ends: Vec<usize> = ends.collect();
    let total = ends.last().copied().unwrap_or(0);
    let mut output = Buffer::new([reads.rows.len(), hidden]);
    let mut attention = Buffer::new([total, 1]);
    let writers = (output.writer(), attention.writer());
    parallel(reads.rows.len(), WORK * total * hidden, |image| {
        let count = reads.parked[image].len();
        // SAFETY: no other task has this image.
        let (output, attention) = unsafe {
            let output = writers.0.fill(image * hidden, hidden, 0.0);
            (output, writers.1.fill(ends[image] - count, count, 0.0))
        };
        reader.read(image, output, attention);
    });
    // SAFETY: the tasks cover all images.
    let results = unsafe { (output.filled(), attention.filled()) };
    Some((
        Tensor::from_primitive::<Flex>(results.0),
        Tensor::from_primitive::<Flex>(results.1),
    ))
}

/// Of each token, in their order: its group, and its values there.
fn tokens<'a>(groups: &[Matrix<'a>]) -> Vec<(usize, &'a [f32])> {
    let groups = groups.iter().enumerate();
    let rows = groups.flat_map(|(group, tokens)| {
        let rows = tokens.values.chunks_exact(tokens.columns).take(tokens.rows);
        rows.map(move |row| (group, row))
    });
    rows.collect()
}

struct Reader<'a> {
    qkv: Matrix<'a>,
    tokens: Vec<(usize, &'a [f32])>,
    drift: [Matrix<'a>; 2],
    norm: &'a [f32],
    projections: Matrix<'a>,
    biases: &'a [f32],
    bias: &'a [f32],
    reads: &'a Reads,
}

impl Reader<'_> {
    fn hidden(&self) -> usize {
        self.qkv.columns / 3
    }

    /// Adds what reading changes of the attention output, `[hidden]`, and how much tokens are attended to.
    fn read(&self, image: usize, output: &mut [f32], attention: &mut [f32]) {
        let (hidden, heads) = (self.hidden(), self.reads.num_heads);
        let width = hidden / heads;
        let (rows, parked) = (&self.reads.rows[image], &self.reads.parked[image]);
        let [computed, count] = [rows.len(), parked.len()].map(|n| n.next_multiple_of(LANES));
        let parts = [
            2 * parked.len(),
            parked.len() * hidden,
            hidden,
            computed,
            count,
            width,
        ];
        with_scratch(parts.iter().sum(), |scratch| {
            let [statistics, tokens, sought, own_scores, scores, own] = split(scratch, parts);
            self.collect(parked, tokens, statistics);
            let cls = self.qkv.block(rows.start, 1, 0, hidden).values;
            let keys = self.qkv.block(rows.start, rows.len(), hidden, hidden);
            let values = self.qkv.block(rows.start, rows.len(), 2 * hidden, hidden);
            let bias_of_rows = self.reads.bias_of_rows.as_ref();
            let bias_of_rows = bias_of_rows.map_or(&[][..], |bias| &bias[rows.clone()]);
            let scale = (width as f32).sqrt().recip();
            for head in 0..heads {
                let columns = head * width..(head + 1) * width;
                let query = &cls[columns.clone()];
                let projection = |part: usize| {
                    self.projections
                        .block(part * hidden + columns.start, width, 0, hidden)
                };
                let biases = |part: usize| &self.biases[part * hidden..][columns.clone()];
                let [keys, values] =
                    [keys, values].map(|rows| rows.block(0, rows.rows, columns.start, width));
                own_scores.fill(f32::NEG_INFINITY);
                score(own_scores, query, keys, scale, 0.0);
                add(own_scores, bias_of_rows.iter().copied());
                let always = sum_of([query, biases(0)], |[query, bias]| query * bias);
                let always = scale * always + self.bias[head];
                combine(sought, query, projection(0));
                scores.fill(f32::NEG_INFINITY);
                score(
                    scores,
                    sought,
                    Matrix::of_rows(tokens, hidden, hidden),
                    scale,
                    always,
                );
                let of_parked = parked.iter().map(|&token| self.reads.bias_of_parked[token]);
                add(scores, of_parked);
                let mut share = 0.0;
                weigh(own_scores, scores, &mut share);
                combine(own, own_scores, values);
                combine(sought, scores, Matrix::of_rows(tokens, hidden, hidden));
                let output = &mut output[columns.clone()];
                change(output, sought, projection(1), biases(1), own, share);
                for (sum, weight) in attention.iter_mut().zip(&*scores) {
                    *sum += weight * share / heads as f32;
                }
            }
        });
    }

    /// An image's parked tokens as the block's attention takes them.
    fn collect(&self, parked: &[usize], tokens: &mut [f32], statistics: &mut [f32]) {
        let hidden = self.hidden();
        for (target, &token) in tokens.chunks_exact_mut(hidden).zip(parked) {
            let (group, values) = self.tokens[token];
            let [scale, shift] = self
                .drift
                .map(|drift| drift.block(group, 1, 0, hidden).values);
            drifted(target, values, scale, shift);
        }
        let (gamma, beta) = self.norm.split_at(hidden);
        normalise(tokens, statistics, gamma, beta, self.reads.epsilon as f32);
    }
}

/// Cuts off one part after the other.
fn split<const N: usize>(mut values: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    lengths.map(|length| values.split_off_mut(..length).unwrap_or_default())
}

vectorised! {
    /// A token, times a number and plus another in each channel.
    fn drifted(target: &mut [f32], values: &[f32], scale: &[f32], shift: &[f32]) {
        let drift = scale.iter().zip(shift);
        for ((target, value), (scale, shift)) in target.iter_mut().zip(values).zip(drift) {
            *target = value * scale + shift;
        }
    }
}

vectorised! {
    /// The sum of rows, each times its weight.
    fn combine(target: &mut [f32], weights: &[f32], rows: Matrix<'_>) {
        target.fill(0.0);
        for (row, &weight) in rows.values.chunks(rows.row_stride).zip(weights).take(rows.rows) {
            for (sum, value) in target.iter_mut().zip(row) {
                *sum = value.mul_add(weight, *sum);
            }
        }
    }
}

vectorised! {
    /// The product of each row with a query, scaled, and plus something.
    fn score(scores: &mut [f32], query: &[f32], rows: Matrix<'_>, scale: f32, plus: f32) {
        let rows = rows.values.chunks(rows.row_stride).take(rows.rows);
        for (score, row) in scores.iter_mut().zip(rows) {
            let row = &row[..query.len()];
            *score = scale * sum_of([query, row], |[query, key]| query * key) + plus;
        }
    }
}

fn add(scores: &mut [f32], bias: impl Iterator<Item = f32>) {
    let scores = scores.iter_mut().zip(bias);
    scores.for_each(|(score, bias)| *score += bias);
}

vectorised! {
    /// Turns the scores of computed and of parked tokens into weights that sum to 1 on either side; tells the share that
    /// those of parked tokens have in the softmax over both.
    fn weigh(own: &mut [f32], parked: &mut [f32], share: &mut f32) {
        let shift_of_own = max(own);
        // All parked tokens may be shut out.
        let shift = max(parked).max(f32::MIN);
        let own_sum = exp_scores(own, 1.0, shift_of_own);
        let sum = exp_scores(parked, 1.0, shift);
        own.iter_mut().for_each(|weight| *weight /= own_sum);
        if sum == 0.0 {
            return;
        }
        parked.iter_mut().for_each(|weight| *weight /= sum);
        let more = shift_of_own - shift + (own_sum / sum).ln();
        *share = 1.0 / (1.0 + more.exp());
    }
}

vectorised! {
    /// What a head's output becomes less what it was, where parked tokens have this share of it.
    fn change(
        output: &mut [f32],
        read: &[f32],
        projection: Matrix<'_>,
        biases: &[f32],
        own: &[f32],
        share: f32,
    ) {
        let rows = projection.values.chunks(projection.row_stride);
        for (((output, row), bias), own) in output.iter_mut().zip(rows).zip(biases).zip(own) {
            let row = &row[..read.len()];
            let value = sum_of([read, row], |[read, weight]| read * weight) + bias;
            *output = share * (value - own);
        }
    }
}
