//! Attention backwards. The weights are computed anew.

use burn::backend::flex::FlexTensor;

use super::super::buffer::{Buffer, Writer, with_scratch};
use super::super::math::{LANES, exp, exp_scores, sum_of, vectorised};
use super::super::matrix::{Matrix, Target, product};
use super::super::{Spans, parallel};
use super::heads::{Heads, Task, add_bias, queries_at_once};

/// How far a score may lie above the logarithm of the denominator: only that of a key that weighs
/// next to nothing does. The exponential is still a float.
const HIGHEST_EXPONENT: f32 = 80.0;

/// The largest attention weight, `e^30`, that a key of weight 0 is taken to have if it weighed 1.
const LARGEST_WEIGHT: f32 = 1.068_647_5e13;

vectorised! {
    /// From the scores of some queries and the gradients of their weights: the weights, and the
    /// gradients of the scores.
    fn softmax_backward(
        scores: &mut [f32],
        gradients: &mut [f32],
        tokens: usize,
        bias: Option<&[f32]>,
        scale: f32,
        log_sums: &[f32],
        output: Matrix<'_>,
        of_output: Matrix<'_>,
    ) {
        let stride = tokens.next_multiple_of(LANES);
        let rows = scores.chunks_exact_mut(stride).zip(gradients.chunks_exact_mut(stride));
        for (query, ((weights, gradients), &log_sum)) in rows.zip(log_sums).enumerate() {
            add_bias(weights, tokens, bias, scale);
            exp_scores(weights, scale, log_sum);
            let row = |m: Matrix<'_>| query * m.row_stride..query * m.row_stride + m.columns;
            let rows = [&output.values[row(output)], &of_output.values[row(of_output)]];
            let mean = sum_of(rows, |[output, gradient]| output * gradient);
            gradients[tokens..].fill(0.0);
            for (gradient, weight) in gradients.iter_mut().zip(weights) {
                *gradient = (*gradient - mean) * *weight * scale;
            }
        }
    }
}

vectorised! {
    /// As [`softmax_backward`], with keys that weigh what `key_mask` says, and whose scores are yet
    /// without it; adds to the mask's gradient.
    fn masked_softmax_backward(
        scores: &mut [f32],
        gradients: &mut [f32],
        key_mask: &[f32],
        of_mask: &mut [f32],
        bias: Option<&[f32]>,
        scale: f32,
        log_sums: &[f32],
        output: Matrix<'_>,
        of_output: Matrix<'_>,
    ) {
        let tokens = key_mask.len();
        let stride = tokens.next_multiple_of(LANES);
        let rows = scores.chunks_exact_mut(stride).zip(gradients.chunks_exact_mut(stride));
        for (query, ((weights, gradients), &log_sum)) in rows.zip(log_sums).enumerate() {
            add_bias(weights, tokens, bias, scale);
            let row = |m: Matrix<'_>| query * m.row_stride..query * m.row_stride + m.columns;
            let rows = [&output.values[row(output)], &of_output.values[row(of_output)]];
            let mean = sum_of(rows, |[output, gradient]| output * gradient);
            let keys = weights.iter_mut().zip(gradients).zip(key_mask.iter().zip(of_mask.iter_mut()));
            for ((weight, gradient), (key, of_key)) in keys {
                let exponent = weight.mul_add(scale, -log_sum);
                // What the key would weigh in the sum, did it weigh 1.
                let whole = exp(if exponent < HIGHEST_EXPONENT { exponent } else { HIGHEST_EXPONENT });
                let bounded = if whole < LARGEST_WEIGHT { whole } else { LARGEST_WEIGHT };
                let slope = *gradient - mean;
                *of_key = slope.mul_add(bounded, *of_key);
                *weight = key * whole;
                *gradient = slope * *weight * scale;
            }
        }
    }
}

/// What a backward pass writes.
#[derive(Clone, Copy)]
struct Results<'a> {
    /// The gradient of `qkv`, `[rows, 3 * hidden]`, if it is wanted.
    qkv: Option<Writer<'a>>,
    /// A key mask, and what each head adds to its gradient, `[heads, rows]`.
    key_mask: Option<(&'a [f32], Writer<'a>)>,
}

/// The gradient of `qkv`, `[rows, 3 * hidden]`. The weights are computed anew.
pub(in crate::kernels::flex) fn backward(
    qkv: Matrix<'_>,
    forward: (Matrix<'_>, Matrix<'_>),
    gradient: Matrix<'_>,
    spans: &Spans,
    num_heads: usize,
) -> FlexTensor {
    let heads = Heads::new(qkv, spans, num_heads);
    let tasks = heads.tasks(|tokens| tokens);
    let mut result = Buffer::new([qkv.rows, qkv.columns]);
    let results = Results {
        qkv: Some(result.writer()),
        key_mask: None,
    };
    parallel(tasks.len(), 5 * heads.work() / 2, |task| {
        differentiate(heads, forward, gradient, &tasks[task], results);
    });
    // SAFETY: the tasks cover each head of each row once.
    unsafe { result.filled() }
}

/// The gradient of the key mask, `[rows]`, and where `of_qkv` says so, that of `qkv`. `spans` are without the mask; the forward
/// pass took them [`weighed`](super::weighed) by it.
pub(in crate::kernels::flex) fn masked_backward(
    qkv: Matrix<'_>,
    key_mask: &[f32],
    forward: (Matrix<'_>, Matrix<'_>),
    gradient: Matrix<'_>,
    spans: &Spans,
    num_heads: usize,
    of_qkv: bool,
) -> (Option<FlexTensor>, FlexTensor) {
    let heads = Heads::new(qkv, spans, num_heads);
    let tasks = heads.tasks(|tokens| tokens);
    let mut of_qkv = of_qkv.then(|| Buffer::new([qkv.rows, qkv.columns]));
    let mut of_heads = vec![0.0; num_heads * qkv.rows];
    let results = Results {
        qkv: of_qkv.as_mut().map(Buffer::writer),
        key_mask: Some((key_mask, Writer::new(&mut of_heads))),
    };
    let work = match results.qkv {
        Some(_) => 5 * heads.work() / 2,
        None => heads.work(),
    };
    parallel(tasks.len(), work, |task| {
        differentiate(heads, forward, gradient, &tasks[task], results);
    });
    let mut of_mask = Buffer::new([qkv.rows]);
    // SAFETY: nobody else uses it.
    let total = unsafe { of_mask.writer().fill(0, qkv.rows, 0.0) };
    for of_head in of_heads.chunks(qkv.rows) {
        let sums = total.iter_mut().zip(of_head);
        sums.for_each(|(total, of_head)| *total += of_head);
    }
    // SAFETY: the tasks cover each head of each row once, and the total is written.
    unsafe { (of_qkv.map(|buffer| buffer.filled()), of_mask.filled()) }
}

fn differentiate(
    heads: Heads<'_>,
    (output, log_sums): (Matrix<'_>, Matrix<'_>),
    gradient: Matrix<'_>,
    task: &Task,
    results: Results<'_>,
) {
    let &Task {
        start,
        tokens,
        head,
        ..
    } = task;
    let Heads { qkv, hidden, .. } = heads;
    let stride = tokens.next_multiple_of(LANES);
    let column = head * heads.width;
    let key = heads.part(1, head, start, tokens);
    let value = heads.part(2, head, start, tokens).transposed();
    let mut of_mask = results.key_mask.map(|(key_mask, of_heads)| {
        // SAFETY: no other task has this head of these rows.
        let of_mask = unsafe { of_heads.part(head * qkv.rows + start, tokens) };
        (&key_mask[start..start + tokens], of_mask)
    });
    let block = queries_at_once(2 * stride).min(tokens);
    with_scratch(2 * block * stride, |scratch| {
        let (weights, scores) = scratch.split_at_mut(block * stride);
        for first in (0..tokens).step_by(block) {
            let queries = block.min(tokens - first);
            let row = start + first;
            let query = heads.part(0, head, row, queries);
            let output = output.block(row, queries, column, heads.width);
            let gradient = gradient.block(row, queries, column, heads.width);
            let weights = &mut weights[..queries * stride];
            let scores = &mut scores[..queries * stride];
            // SAFETY: the scratch is ours; both have `queries` rows of `stride` values.
            unsafe {
                let key = key.transposed();
                product(weights.as_mut_ptr(), stride, query, key, Target::Write);
                product(scores.as_mut_ptr(), stride, gradient, value, Target::Write);
            }
            let bias = heads.bias(start, tokens);
            let log_sums = &log_sums.values[head * qkv.rows + row..][..queries];
            match &mut of_mask {
                None => softmax_backward(
                    weights,
                    scores,
                    tokens,
                    bias,
                    heads.scale,
                    log_sums,
                    output,
                    gradient,
                ),
                Some((key_mask, of_mask)) => masked_softmax_backward(
                    weights,
                    scores,
                    key_mask,
                    of_mask,
                    bias,
                    heads.scale,
                    log_sums,
                    output,
                    gradient,
                ),
            }
            let Some(result) = results.qkv else {
                continue;
            };
            let target =
                |part: usize, row: usize| result.at(row * qkv.columns + part * hidden + column);
            let weights = Matrix::of_rows(weights, tokens, stride).transposed();
            let scores = Matrix::of_rows(scores, tokens, stride);
            let mode = match first {
                0 => Target::Write,
                _ => Target::Add,
            };
            // SAFETY: no other task writes these columns of this sequence's rows, and what is
            // added to was written for the first block.
            unsafe {
                let stride = qkv.columns;
                product(target(0, row), stride, scores, key, Target::Write);
                product(target(1, start), stride, scores.transposed(), query, mode);
                product(target(2, start), stride, weights, gradient, mode);
            }
        }
    });
}
