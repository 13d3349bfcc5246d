//! What reducers need of rows: sums of them, which are left of a packed matrix when tokens are dropped or
//! merged, their mean keys, and what CLS makes of them.

use burn::backend::flex::FlexTensor;

use super::buffer::Buffer;
use super::math::{sum_of, vectorised};
use super::matrix::Matrix;
use super::parallel;
use crate::kernels::RowSums;

/// Memory accesses cost more than the operations that [`parallel`] counts.
const WORK: usize = 16;
/// Rows of the result that a task computes.
const ROWS: usize = 128;

/// Each result's rows, times their weights, summed in their order.
pub(super) fn sums(input: Matrix<'_>, sums: &RowSums) -> FlexTensor {
    let columns = input.columns;
    let results = sums.results();
    let mut output = Buffer::new([results, columns]);
    let writer = output.writer();
    parallel(results.div_ceil(ROWS), WORK * results * columns, |task| {
        for result in task * ROWS..results.min((task + 1) * ROWS) {
            let terms = &sums.terms[sums.starts[result]..sums.starts[result + 1]];
            let Some((&(first, weight), others)) = terms.split_first() else {
                // SAFETY: no other task has this row.
                unsafe { writer.fill(result * columns, columns, 0.0) };
                continue;
            };
            let first = &input.values[first * input.row_stride..][..columns];
            // SAFETY: no other task has this row.
            let target = unsafe { writer.write(result * columns, first) };
            if weight != 1.0 || !others.is_empty() {
                add_terms(target, weight, others, input);
            }
        }
    });
    // SAFETY: the tasks cover all rows.
    unsafe { output.filled() }
}

vectorised! {
    /// Multiplies a row by a weight, and adds others to it.
    fn add_terms(sum: &mut [f32], weight: f32, others: &[(usize, f32)], input: Matrix<'_>) {
        sum.iter_mut().for_each(|value| *value *= weight);
        for &(row, weight) in others {
            let row = &input.values[row * input.row_stride..][..sum.len()];
            for (value, other) in sum.iter_mut().zip(row) {
                *value += other * weight;
            }
        }
    }
}

/// Each row's keys, averaged over the heads.
pub(super) fn mean_keys(qkv: Matrix<'_>, num_heads: usize) -> FlexTensor {
    let hidden = qkv.columns / 3;
    let width = hidden / num_heads;
    let mut output = Buffer::new([qkv.rows, width]);
    let writer = output.writer();
    parallel(qkv.rows.div_ceil(ROWS), WORK * qkv.rows * hidden, |task| {
        let first = task * ROWS;
        let rows = ROWS.min(qkv.rows - first);
        // SAFETY: no other task has these rows.
        let means = unsafe { writer.fill(first * width, rows * width, 0.0) };
        add_mean_keys(means, qkv.block(first, rows, hidden, hidden), width);
    });
    // SAFETY: the tasks cover all rows.
    unsafe { output.filled() }
}

vectorised! {
    /// Adds the mean of each row's heads, which are `width` wide.
    fn add_mean_keys(means: &mut [f32], keys: Matrix<'_>, width: usize) {
        let share = width as f32 / keys.columns as f32;
        let rows = means.chunks_exact_mut(width).zip(keys.values.chunks(keys.row_stride));
        for (mean, row) in rows {
            for head in row[..keys.columns].chunks_exact(width) {
                for (sum, key) in mean.iter_mut().zip(head) {
                    *sum += key;
                }
            }
            mean.iter_mut().for_each(|sum| *sum *= share);
        }
    }
}

/// Queries of `cls_rows` times each row's key in each head, scaled.
pub(super) fn cls_scores(qkv: Matrix<'_>, cls_rows: &[usize], num_heads: usize) -> FlexTensor {
    let hidden = qkv.columns / 3;
    let mut output = Buffer::new([qkv.rows, num_heads]);
    let writer = output.writer();
    parallel(qkv.rows.div_ceil(ROWS), WORK * qkv.rows * hidden, |task| {
        let first = task * ROWS;
        let rows = ROWS.min(qkv.rows - first);
        // SAFETY: no other task has these rows.
        let scores = unsafe { writer.fill(first * num_heads, rows * num_heads, 0.0) };
        let cls_rows = &cls_rows[first..first + rows];
        let queries = qkv.block(0, qkv.rows, 0, hidden);
        add_scores(
            scores,
            queries,
            qkv.block(first, rows, hidden, hidden),
            cls_rows,
            num_heads,
        );
    });
    // SAFETY: the tasks cover all rows.
    unsafe { output.filled() }
}

vectorised! {
    /// Adds the products of each key with its query in each head, scaled.
    fn add_scores(
        scores: &mut [f32],
        queries: Matrix<'_>,
        keys: Matrix<'_>,
        query_rows: &[usize],
        num_heads: usize,
    ) {
        let width = keys.columns / num_heads;
        let scale = 1.0 / (width as f32).sqrt();
        let keys = keys.values.chunks(keys.row_stride).zip(query_rows);
        for (scores, (key, &row)) in scores.chunks_exact_mut(num_heads).zip(keys) {
            let query = queries.values[row * queries.row_stride..].chunks_exact(width);
            for (score, (query, key)) in scores.iter_mut().zip(query.zip(key.chunks_exact(width))) {
                *score += scale * sum_of([query, key], |[query, key]| query * key);
            }
        }
    }
}
