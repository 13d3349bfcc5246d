//! Attention over packed sequences, one head of one sequence at a time: scores and weights stay
//! in the cache, queries, keys and values are read where they stand.

use burn::backend::flex::FlexTensor;

use super::buffer::{Buffer, Writer, with_scratch};
use super::math::{LANES, exp, exp_scores, max, sum_of, vectorised};
use super::matrix::{Matrix, Target, product};
use super::{Spans, parallel};

/// Scores that are held at once: half of a usual level 2 cache.
const SCORES: usize = 64 * 1024;

/// Sequences of fewer tokens count as if they had so many: what a task costs beside its arithmetic.
const SHORT: usize = 16;

/// How far a score may lie above the logarithm of the denominator: only that of a key that weighs
/// next to nothing does. The exponential is still a float.
const HIGHEST_EXPONENT: f32 = 80.0;

/// The largest attention weight, `e^30`, that a key of weight 0 is taken to have if it weighed 1.
const LARGEST_WEIGHT: f32 = 1.068_647_5e13;

/// One head of one sequence, and for the forward pass some of its queries.
struct Task {
    /// The sequence's first row.
    start: usize,
    tokens: usize,
    head: usize,
    /// The first query, counted from the start of the sequence.
    first: usize,
    queries: usize,
}

/// What all tasks of a call share.
#[derive(Clone, Copy)]
struct Heads<'a> {
    qkv: Matrix<'a>,
    spans: &'a Spans,
    count: usize,
    width: usize,
    hidden: usize,
    /// Of the scores.
    scale: f32,
}

impl<'a> Heads<'a> {
    fn new(qkv: Matrix<'a>, spans: &'a Spans, count: usize) -> Self {
        let hidden = qkv.columns / 3;
        let width = hidden / count;
        Self {
            qkv,
            spans,
            count,
            width,
            hidden,
            scale: (width as f32).sqrt().recip(),
        }
    }

    /// Queries, keys or values (part 0, 1 or 2) of some rows in one head, `[rows, width]`.
    fn part(self, part: usize, head: usize, row: usize, rows: usize) -> Matrix<'a> {
        let column = part * self.hidden + head * self.width;
        self.qkv.block(row, rows, column, self.width)
    }

    /// What is added to the scores of a sequence's keys, if anything is.
    fn bias(self, start: usize, tokens: usize) -> Option<&'a [f32]> {
        let bias = self.spans.bias.as_ref();
        bias.map(|bias| &bias[start..start + tokens])
    }

    /// All heads of all sequences, long sequences first, each with at most `limit(tokens)` of
    /// its queries.
    fn tasks(self, limit: impl Fn(usize) -> usize) -> Vec<Task> {
        let sequences = self.spans.iter().filter(|&(_, tokens)| tokens > 0);
        let mut sequences: Vec<_> = sequences.collect();
        sequences.sort_by_key(|&(_, tokens)| std::cmp::Reverse(tokens));
        let mut tasks = Vec::new();
        for (start, tokens) in sequences {
            let blocks = tokens.div_ceil(limit(tokens));
            let size = tokens.div_ceil(blocks);
            for head in 0..self.count {
                for first in (0..tokens).step_by(size) {
                    let queries = size.min(tokens - first);
                    tasks.push(Task {
                        start,
                        tokens,
                        head,
                        first,
                        queries,
                    });
                }
            }
        }
        tasks
    }

    /// The floating-point operations of the forward pass, those that [`SHORT`] adds included.
    fn work(self) -> usize {
        let of_span = |(_, tokens): (usize, usize)| tokens.max(SHORT) * tokens.max(SHORT);
        let scores: usize = self.spans.iter().map(of_span).sum();
        4 * scores * self.hidden
    }
}

/// The spans, where keys weigh what `key_mask` says.
pub(in crate::kernels) fn weighed(spans: &Spans, key_mask: &[f32]) -> Spans {
    let bias = key_mask.iter().enumerate().map(|(row, weight)| {
        let bias = spans.bias.as_ref().map_or(0.0, |bias| bias[row]);
        bias + weight.ln()
    });
    Spans {
        starts: spans.starts.clone(),
        bias: Some(bias.collect()),
    }
}

/// Queries whose scores fit into the cache; scores of one query take `stride` values.
fn queries_at_once(stride: usize) -> usize {
    (SCORES / stride).max(16)
}

/// Output, `[rows, hidden]`, and the logarithm of each softmax's denominator, `[heads, rows]`.
pub(super) fn forward(
    qkv: Matrix<'_>,
    spans: &Spans,
    num_heads: usize,
) -> (FlexTensor, FlexTensor) {
    let heads = Heads::new(qkv, spans, num_heads);
    // Few heads in all are cut into blocks of queries, so that every thread has some.
    let few = (spans.starts.len() - 1) * num_heads < 32;
    let limit = |tokens: usize| match queries_at_once(tokens.next_multiple_of(LANES)) {
        limit if few => limit.min(64),
        limit => limit,
    };
    let tasks = heads.tasks(limit);
    let mut output = Buffer::new([qkv.rows, heads.hidden]);
    let mut log_sums = Buffer::new([num_heads, qkv.rows]);
    let writers = (output.writer(), log_sums.writer());
    parallel(tasks.len(), heads.work(), |task| {
        attend(heads, &tasks[task], writers.0, writers.1);
    });
    // SAFETY: the tasks cover each head of each query once.
    unsafe { (output.filled(), log_sums.filled()) }
}

fn attend(heads: Heads<'_>, task: &Task, output: Writer<'_>, log_sums: Writer<'_>) {
    let &Task {
        start,
        tokens,
        head,
        first,
        queries,
    } = task;
    let stride = tokens.next_multiple_of(LANES);
    let row = start + first;
    let query = heads.part(0, head, row, queries);
    let key = heads.part(1, head, start, tokens).transposed();
    let value = heads.part(2, head, start, tokens);
    with_scratch(queries * stride, |scores| {
        // SAFETY: the scratch is ours and has `queries` rows of `stride` values.
        unsafe { product(scores.as_mut_ptr(), stride, query, key, Target::Write) };
        // SAFETY: no other task has this head of these queries.
        let log_sums = unsafe { log_sums.fill(head * heads.qkv.rows + row, queries, 0.0) };
        let bias = heads.bias(start, tokens);
        softmax(scores, tokens, bias, heads.scale, log_sums);
        let weights = Matrix::of_rows(scores, tokens, stride);
        let target = output.at(row * heads.hidden + head * heads.width);
        // SAFETY: no other task writes these columns of these rows.
        unsafe { product(target, heads.hidden, weights, value, Target::Write) };
    });
}

/// Scores, yet to be scaled, get what is added to their keys; those beyond the sequence's end become
/// minus infinity.
#[inline(always)]
fn add_bias(scores: &mut [f32], tokens: usize, bias: Option<&[f32]>, scale: f32) {
    let (scores, beyond) = scores.split_at_mut(tokens);
    beyond.fill(f32::NEG_INFINITY);
    let factor = scale.recip();
    for (score, bias) in scores.iter_mut().zip(bias.unwrap_or_default()) {
        *score += bias * factor;
    }
}

vectorised! {
    /// Turns the scores of some queries into weights; tells the logarithm of each denominator.
    fn softmax(
        scores: &mut [f32],
        tokens: usize,
        bias: Option<&[f32]>,
        scale: f32,
        log_sums: &mut [f32],
    ) {
        let stride = tokens.next_multiple_of(LANES);
        for (scores, log_sum) in scores.chunks_exact_mut(stride).zip(log_sums) {
            add_bias(scores, tokens, bias, scale);
            let shift = scale * max(scores);
            let sum = exp_scores(scores, scale, shift);
            *log_sum = shift + sum.ln();
            let factor = sum.recip();
            for weight in scores {
                *weight *= factor;
            }
        }
    }
}

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
pub(super) fn backward(
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

/// The gradients of `qkv`, if `of_qkv`, and of the key mask, `[rows]`. The forward pass was that of the
/// [`weighed`] spans; these are without the mask.
pub(super) fn masked_backward(
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
