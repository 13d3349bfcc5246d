//! What reducers need of rows: sums of them, which are left of a packed matrix when tokens are dropped or
//! merged, their mean keys, and what CLS makes of them.

use burn::backend::flex::FlexTensor;
use pulp::Arch;

use super::buffer::Buffer;
use super::math::sum_of;
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
            let row = |row: usize| {
                let start = row * input.row_stride;
                &input.values[start..start + columns]
            };
            let Some((&(first, weight), others)) = terms.split_first() else {
                // SAFETY: no other task has this row.
                unsafe { writer.fill(result * columns, columns, 0.0) };
                continue;
            };
            // SAFETY: no other task has this row.
            let target = unsafe { writer.write(result * columns, row(first)) };
            if weight != 1.0 {
                target.iter_mut().for_each(|value| *value *= weight);
            }
            for &(other, weight) in others {
                for (value, other) in target.iter_mut().zip(row(other)) {
                    *value += other * weight;
                }
            }
        }
    });
    // SAFETY: the tasks cover all rows.
    unsafe { output.filled() }
}

/// Each row's keys, averaged over the heads.
pub(super) fn mean_keys(qkv: Matrix<'_>, num_heads: usize) -> FlexTensor {
    let hidden = qkv.columns / 3;
    let width = hidden / num_heads;
    let share = 1.0 / num_heads as f32;
    let mut output = Buffer::new([qkv.rows, width]);
    let writer = output.writer();
    let of_task = |task: usize| {
        for row in task * ROWS..qkv.rows.min((task + 1) * ROWS) {
            let start = row * qkv.row_stride + hidden;
            let mut heads = qkv.values[start..start + hidden].chunks_exact(width);
            let first = heads.next().unwrap_or_default();
            // SAFETY: no other task has this row.
            let target = unsafe { writer.write(row * width, first) };
            for head in heads {
                for (sum, key) in target.iter_mut().zip(head) {
                    *sum += key;
                }
            }
            target.iter_mut().for_each(|sum| *sum *= share);
        }
    };
    parallel(qkv.rows.div_ceil(ROWS), WORK * qkv.rows * hidden, |task| {
        Arch::new().dispatch(|| of_task(task));
    });
    // SAFETY: the tasks cover all rows.
    unsafe { output.filled() }
}

/// Queries of `cls_rows` times each row's key in each head, scaled.
pub(super) fn cls_scores(qkv: Matrix<'_>, cls_rows: &[usize], num_heads: usize) -> FlexTensor {
    let hidden = qkv.columns / 3;
    let width = hidden / num_heads;
    let scale = 1.0 / (width as f32).sqrt();
    let mut output = Buffer::new([qkv.rows, num_heads]);
    let writer = output.writer();
    let of_task = |task: usize| {
        let rows = task * ROWS..qkv.rows.min((task + 1) * ROWS);
        for (row, &cls_row) in rows.clone().zip(&cls_rows[rows]) {
            let [query, key] = [(cls_row, 0), (row, hidden)].map(|(row, column)| {
                let start = row * qkv.row_stride + column;
                qkv.values[start..start + hidden].chunks_exact(width)
            });
            // SAFETY: no other task has this row.
            let scores = unsafe { writer.fill(row * num_heads, num_heads, 0.0) };
            for (score, (query, key)) in scores.iter_mut().zip(query.zip(key)) {
                *score = scale * sum_of([query, key], |[query, key]| query * key);
            }
        }
    };
    parallel(qkv.rows.div_ceil(ROWS), WORK * qkv.rows * hidden, |task| {
        Arch::new().dispatch(|| of_task(task));
    });
    // SAFETY: the tasks cover all rows.
    unsafe { output.filled() }
}
