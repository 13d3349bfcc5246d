//! Layer norm over rows.

use super::buffer::{Buffer, Writer};
use super::math::{sum_of, vectorised};
use super::matrix::Matrix;
use super::parallel;

/// Work on one value, in floating-point operations of a matrix product.
const WORK: usize = 32;

/// Rows of a task. Cut by shape alone: the backward pass adds up what tasks have summed.
fn rows_at_once(rows: usize) -> usize {
    rows.div_ceil(64).max(16)
}

/// Rows of a contiguous matrix.
fn row<'a>(matrix: Matrix<'a>, row: usize) -> &'a [f32] {
    &matrix.values[row * matrix.columns..][..matrix.columns]
}

/// Output, `[rows, columns]`, and each row's mean and reciprocal standard deviation, `[rows, 2]`.
pub(super) fn forward(
    input: Matrix<'_>,
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
) -> (Vec<f32>, Vec<f32>) {
    let (rows, columns) = (input.rows, input.columns);
    let size = rows_at_once(rows);
    let mut output = Buffer::new(rows * columns);
    let mut statistics = Buffer::new(rows * 2);
    let writers = (output.writer(), statistics.writer());
    parallel(rows.div_ceil(size), WORK * rows * columns, |task| {
        vectorised!({
            for index in task * size..rows.min((task + 1) * size) {
                let input = row(input, index);
                let mean = sum_of([input], |[value]| value) / columns as f32;
                let variance = sum_of([input], |[value]| (value - mean) * (value - mean));
                let scale = (variance / columns as f32 + epsilon).sqrt().recip();
                // SAFETY: no other task has this row.
                let output = unsafe {
                    writers.1.write(index * 2, &[mean, scale]);
                    writers.0.write(index * columns, input)
                };
                for ((value, gamma), beta) in output.iter_mut().zip(gamma).zip(beta) {
                    *value = ((*value - mean) * scale).mul_add(*gamma, *beta);
                }
            }
        });
    });
    // SAFETY: the tasks cover all rows.
    unsafe { (output.filled(), statistics.filled()) }
}

/// The gradients of input, gamma and beta, given that of the output.
pub(super) fn backward(
    input: Matrix<'_>,
    gamma: &[f32],
    statistics: Matrix<'_>,
    gradient: Matrix<'_>,
) -> [Vec<f32>; 3] {
    let (rows, columns) = (input.rows, input.columns);
    let size = rows_at_once(rows);
    let tasks = rows.div_ceil(size);
    let mut result = Buffer::new(rows * columns);
    let target = result.writer();
    // The sums of each task: gamma's gradient, then beta's.
    let mut sums = vec![0.0; tasks * 2 * columns];
    let writer = Writer::new(&mut sums);
    parallel(tasks, WORK * rows * columns, |task| {
        // SAFETY: no other task has these sums.
        let sums = unsafe { writer.part(task * 2 * columns, 2 * columns) };
        let (of_gamma, of_beta) = sums.split_at_mut(columns);
        vectorised!({
            for index in task * size..rows.min((task + 1) * size) {
                let (input, gradient) = (row(input, index), row(gradient, index));
                let &[mean, scale] = row(statistics, index) else {
                    unreachable!("two statistics a row")
                };
                // SAFETY: no other task has this row.
                let output = unsafe { target.write(index * columns, input) };
                output.iter_mut().for_each(|value| *value = (*value - mean) * scale);
                let sums = of_gamma.iter_mut().zip(of_beta.iter_mut());
                for (((of_gamma, of_beta), normed), gradient) in sums.zip(&*output).zip(gradient) {
                    *of_gamma = gradient.mul_add(*normed, *of_gamma);
                    *of_beta += gradient;
                }
                let mean = sum_of([gradient, gamma], |[g, gamma]| g * gamma) / columns as f32;
                let slope = sum_of([gradient, gamma, &*output], |[g, gamma, x]| g * gamma * x) / columns as f32;
                let inputs = output.iter_mut().zip(gradient).zip(gamma);
                for ((value, gradient), gamma) in inputs {
                    *value = scale * (gradient * gamma - mean - *value * slope);
                }
            }
        });
    });
    let mut totals = [vec![0.0; columns], vec![0.0; columns]];
    for sums in sums.chunks(columns).enumerate() {
        let total = &mut totals[sums.0 % 2];
        total.iter_mut().zip(sums.1).for_each(|(total, sum)| *total += sum);
    }
    let [of_gamma, of_beta] = totals;
    // SAFETY: the tasks cover all rows.
    [unsafe { result.filled() }, of_gamma, of_beta]
}
