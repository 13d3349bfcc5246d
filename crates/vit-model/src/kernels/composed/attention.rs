//! Attention over packed sequences, composed of Burn's operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, FloatDType, TensorData, TensorMetadata};
use burn::tensor::{Shape, Slice};

use super::super::{FusedOps, Spans};
use super::uploads::{indices, upload};

/// A key of weight 0 may have any score. So no key's exponential is more than `e` to this times the one of the highest score
/// among the keys that count.
const HIGHEST_EXPONENT: f32 = 30.0;

/// A score this low leaves an attention weight of exactly zero in every float type.
const HIDDEN_SCORE: f32 = -3.0e4;

/// One batched attention for each run of sequences of equal length; with a `step` above 1 a single one, for
/// which all are padded to the longest, rounded up to a multiple of `step`, with rows that nobody attends
/// to. Keys weigh what `key_mask`, `[rows]`, says.
pub(in crate::kernels) fn attention<B: FusedOps>(
    qkv: FloatTensor<B>,
    key_mask: Option<FloatTensor<B>>,
    spans: &Spans,
    num_heads: usize,
    step: usize,
) -> FloatTensor<B> {
    let hidden = qkv.shape()[1] / 3;
    let device = qkv.device();
    // Rows after the last sequence are nobody's; anything may stand there.
    let spare = qkv.shape()[0] - spans.starts[spans.starts.len() - 1];
    let mut outputs = Vec::new();
    for run in runs(spans, step) {
        let (count, tokens) = (run.lengths.len(), run.tokens);
        let rows = (!run.is_full()).then(|| run.padded_rows());
        let of_run = |tensor: &FloatTensor<B>| match &rows {
            None => {
                let rows = run.start..run.start + count * tokens;
                B::float_slice(tensor.clone(), &[Slice::from(rows)])
            }
            Some(rows) => B::float_select(tensor.clone(), 0, indices::<B>(rows, &device)),
        };
        let group = of_run(&qkv);
        let [query, key, value] = heads_of::<B>(&group, count, tokens, num_heads);
        let bias = run.scores(spans).map(|scores| {
            let bias = TensorData::new(scores, [count, 1, 1, tokens]);
            upload::<B>(bias, qkv.dtype(), &device)
        });
        let heads = match &key_mask {
            None => attend::<B>(query, key, value, bias),
            Some(mask) => {
                let mask = B::float_reshape(of_run(mask), Shape::from([count, 1, 1, tokens]));
                attend_masked::<B>(query, key, value, bias, mask)
            }
        };
        let heads = B::float_swap_dims(heads, 1, 2);
        let heads = B::float_reshape(heads, Shape::from([count * tokens, hidden]));
        outputs.push(match rows {
            None => heads,
            Some(_) => {
                let mut rows = run.real_rows();
                if step > 1 {
                    rows.resize(rows.len() + spare, 0);
                }
                B::float_select(heads, 0, indices::<B>(&rows, &device))
            }
        });
    }
    let rows: usize = outputs.iter().map(|output| output.shape()[0]).sum();
    if rows < qkv.shape()[0] {
        let rest = Slice::from(rows..qkv.shape()[0]);
        outputs.push(B::float_slice(qkv, &[rest, Slice::from(0..hidden)]));
    }
    match outputs.len() {
        1 => outputs.remove(0),
        _ => B::float_cat(outputs, 0),
    }
}

/// One batched attention of images that have `tokens` rows each; `bias`, `[images, tokens]`, is added to everyone's scores.
pub(in crate::kernels) fn uniform_attention<B: FusedOps>(
    qkv: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    tokens: usize,
    num_heads: usize,
) -> FloatTensor<B> {
    let (rows, hidden) = (qkv.shape()[0], qkv.shape()[1] / 3);
    let images = rows / tokens;
    let [query, key, value] = heads_of::<B>(&qkv, images, tokens, num_heads);
    let bias = bias.map(|bias| B::float_reshape(bias, Shape::from([images, 1, 1, tokens])));
    let heads = B::float_swap_dims(attend::<B>(query, key, value, bias), 1, 2);
    B::float_reshape(heads, Shape::from([rows, hidden]))
}

/// Queries, keys and values, `[images, heads, tokens, width]`, of the first `images * tokens` rows.
fn heads_of<B: Backend>(
    qkv: &FloatTensor<B>,
    images: usize,
    tokens: usize,
    num_heads: usize,
) -> [FloatTensor<B>; 3] {
    let hidden = qkv.shape()[1] / 3;
    [0, 1, 2].map(|part| {
        let columns = part * hidden..(part + 1) * hidden;
        let rows = 0..images * tokens;
        let part = B::float_slice(qkv.clone(), &[Slice::from(rows), Slice::from(columns)]);
        let shape = Shape::from([images, tokens, num_heads, hidden / num_heads]);
        B::float_swap_dims(B::float_reshape(part, shape), 1, 2)
    })
}

/// Attention of `[images, heads, tokens, width]`. With gradients its softmax is not fused, so
/// that it is computed in 32-bit floats here; what is fused accumulates in them anyway. `bias` is `[images, 1, 1, tokens]`.
fn attend<B: FusedOps>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let dtype = query.dtype();
    if dtype == DType::F32 || dtype == DType::F64 || !B::ad_enabled(&query.device()) {
        return match bias {
            None => B::attention(query, key, value, None, None, Default::default()),
            Some(bias) => B::attention_with_bias(query, key, value, bias),
        };
    }
    let weights = B::softmax(scores::<B>(query, key, bias), 3);
    B::float_matmul(B::float_cast(weights, dtype.into()), value)
}

/// As [`attend`], with keys that weigh what `mask`, `[images, 1, 1, tokens]`, says.
fn attend_masked<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    mask: FloatTensor<B>,
) -> FloatTensor<B> {
    let dtype = query.dtype();
    let scores = scores::<B>(query, key, bias);
    // The weights do not depend on what all scores of a query are lowered by, so that no gradient
    // has to go through it.
    let counts = B::float_log(B::float_detach(mask.clone()));
    let counts = B::float_clamp_min(counts, HIDDEN_SCORE.into());
    let highest = B::float_add(B::float_detach(scores.clone()), counts);
    let exponents = B::float_sub(scores, B::float_max_dim(highest, 3));
    let exponents = B::float_clamp_max(exponents, HIGHEST_EXPONENT.into());
    let weights = B::float_mul(B::float_exp(exponents), mask);
    let weights = B::float_div(weights.clone(), B::float_sum_dim(weights, 3));
    B::float_matmul(B::float_cast(weights, dtype.into()), value)
}

/// Scores, scaled and with what is added to them, in at least 32 bits.
fn scores<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let dtype = match query.dtype() {
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    };
    let scale = 1.0 / (query.shape()[3] as f64).sqrt();
    let query = B::float_mul_scalar(query, scale.into());
    let scores = B::float_matmul(query, B::float_swap_dims(key, 2, 3));
    let scores = B::float_cast(scores, dtype);
    match bias {
        Some(bias) => B::float_add(scores, B::float_cast(bias, dtype)),
        None => scores,
    }
}

/// Neighbours that are attended to together.
struct Run {
    /// The first row.
    start: usize,
    /// Rows of each sequence.
    lengths: Vec<usize>,
    /// Rows of each sequence after padding.
    tokens: usize,
}

impl Run {
    /// Is nothing padded?
    fn is_full(&self) -> bool {
        self.lengths.iter().all(|&length| length == self.tokens)
    }

    /// The first row of each sequence, and its length.
    fn spans(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let starts = self.lengths.iter().scan(self.start, |next, &length| {
            let start = *next;
            *next += length;
            Some(start)
        });
        starts.zip(self.lengths.iter().copied())
    }

    /// The rows of each sequence; where it is padded, its first row again.
    fn padded_rows(&self) -> Vec<usize> {
        let padded = |(start, length)| {
            let row = move |place| start + if place < length { place } else { 0 };
            (0..self.tokens).map(row)
        };
        self.spans().flat_map(padded).collect()
    }

    /// Where in the padded rows the sequences' own are.
    fn real_rows(&self) -> Vec<usize> {
        let own = |(slot, &length): (usize, &usize)| {
            let first = slot * self.tokens;
            first..first + length
        };
        self.lengths.iter().enumerate().flat_map(own).collect()
    }

    /// What is added to the scores of each padded row, where anything is hidden.
    fn scores(&self, spans: &Spans) -> Option<Vec<f32>> {
        if self.is_full() && spans.bias.is_none() {
            return None;
        }
        let scores = self.spans().flat_map(|(start, length)| {
            (0..self.tokens).map(move |place| match &spans.bias {
                _ if place >= length => HIDDEN_SCORE,
                Some(bias) => bias[start + place].max(HIDDEN_SCORE),
                None => 0.0,
            })
        });
        Some(scores.collect())
    }
}

/// Runs of neighbours of equal length, or for a `step` above 1 all in one.
fn runs(spans: &Spans, step: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let longest = spans.iter().map(|(_, length)| length).max();
    for (start, length) in spans.iter() {
        let tokens = match longest {
            Some(longest) if step > 1 => longest.next_multiple_of(step),
            _ => length,
        };
        match runs.last_mut() {
            Some(run) if run.tokens == tokens => run.lengths.push(length),
            _ => runs.push(Run {
                start,
                lengths: vec![length],
                tokens,
            }),
        }
    }
    runs
}
