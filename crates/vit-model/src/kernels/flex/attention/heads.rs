//! What forward and backward passes of attention share: the work, cut into tasks, and its scores.

use super::super::Spans;
use super::super::matrix::Matrix;

/// Sequences of fewer tokens count as if they had so many: what a task costs beside its arithmetic.
const SHORT: usize = 16;

/// Scores that are held at once: half of a usual level 2 cache.
const SCORES: usize = 64 * 1024;

/// One head of one sequence, and for the forward pass some of its queries.
pub(super) struct Task {
    /// The sequence's first row.
    pub start: usize,
    pub tokens: usize,
    pub head: usize,
    /// The first query, counted from the start of the sequence.
    pub first: usize,
    pub queries: usize,
}

/// What all tasks of a call share.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub qkv: Matrix<'a>,
    pub spans: &'a Spans,
    pub count: usize,
    pub width: usize,
    pub hidden: usize,
    /// Of the scores.
    pub scale: f32,
}

impl<'a> Heads<'a> {
    pub fn new(qkv: Matrix<'a>, spans: &'a Spans, count: usize) -> Self {
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
    pub fn part(self, part: usize, head: usize, row: usize, rows: usize) -> Matrix<'a> {
        let column = part * self.hidden + head * self.width;
        self.qkv.block(row, rows, column, self.width)
    }

    /// What is added to the scores of a sequence's keys, if anything is.
    pub fn bias(self, start: usize, tokens: usize) -> Option<&'a [f32]> {
        let bias = self.spans.bias.as_ref();
        bias.map(|bias| &bias[start..start + tokens])
    }

    /// All heads of all sequences, long sequences first, each with at most `limit(tokens)` of
    /// its queries.
    pub fn tasks(self, limit: impl Fn(usize) -> usize) -> Vec<Task> {
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
    pub fn work(self) -> usize {
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
pub(super) fn queries_at_once(stride: usize) -> usize {
    (SCORES / stride).max(16)
}

/// Scores, yet to be scaled, get what is added to their keys; those beyond the sequence's end become
/// minus infinity.
#[inline(always)]
pub(super) fn add_bias(scores: &mut [f32], tokens: usize, bias: Option<&[f32]>, scale: f32) {
    let (scores, beyond) = scores.split_at_mut(tokens);
    beyond.fill(f32::NEG_INFINITY);
    let factor = scale.recip();
    for (score, bias) in scores.iter_mut().zip(bias.unwrap_or_default()) {
        *score += bias * factor;
    }
}
