//! Attention forwards.

use burn::backend::flex::FlexTensor;

use super::super::buffer::{Buffer, Writer, with_scratch};
use super::super::math::{LANES, exp_scores, max, vectorised};
use super::super::matrix::{Matrix, Target, product};
use super::super::{Spans, parallel};
use super::heads::{Heads, Task, add_bias, queries_at_once};

/// Output, `[rows, hidden]`, and the logarithm of each softmax's denominator, `[heads, rows]`.
pub(in crate::kernels::flex) fn forward(
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
