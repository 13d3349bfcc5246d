//! Layer norm over rows.

use burn::backend::flex::FlexTensor;

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

/// Output, `[rows, columns]`, and each row's mean and reciprocal standard deviation, `[rows, 2]`.
pub(super) fn forward(
    input: Matrix<'_>,
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
) -> (FlexTensor, FlexTensor) {
    let (rows, columns) = (input.rows, input.columns);
    let size = rows_at_once(rows);
    let mut output = Buffer::new([rows, columns]);
    let mut statistics = Buffer::new([rows, 2]);
    let writers = (output.writer(), statistics.writer());
    parallel(rows.div_ceil(size), WORK * rows * columns, |task| {
        let [start, end] = [task, task + 1].map(|task| rows.min(task * size));
        let input = &input.values[start * columns..end * columns];
        // SAFETY: no other task has these rows.
        let (output, statistics) = unsafe {
            let statistics = writers.1.fill(start * 2, (end - start) * 2, 0.0);
            (writers.0.write(start * columns, input), statistics)
        };
        normalise(output, statistics, gamma, beta, epsilon);
    });
    // SAFETY: the tasks cover all rows.
    unsafe { (output.filled(), statistics.filled()) }
}

/// Takes the mean from each value, and then what the mean lost when it was rounded: nearly equal
/// values differ by little more than that.
#[inline(always)]
fn centre(row: &mut [f32], mean: f32) {
    row.iter_mut().for_each(|value| *value -= mean);
    let lost = sum_of([&*row], |[value]| value) / row.len() as f32;
    row.iter_mut().for_each(|value| *value -= lost);
}

vectorised! {
    /// Normalises rows, and tells the mean and reciprocal standard deviation of each.
    pub(super) fn normalise(
        rows: &mut [f32],
        statistics: &mut [f32],
        gamma: &[f32],
        beta: &[f32],
        epsilon: f32,
    ) {
        let columns = gamma.len();
        for (row, statistics) in rows.chunks_exact_mut(columns).zip(statistics.chunks_exact_mut(2)) {
            let mean = sum_of([&*row], |[value]| value) / columns as f32;
            centre(row, mean);
            let variance = sum_of([&*row], |[value]| value * value);
            let scale = (variance / columns as f32 + epsilon).sqrt().recip();
            statistics.copy_from_slice(&[mean, scale]);
            for ((value, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
                *value = (*value * scale).mul_add(*gamma, *beta);
            }
        }
    }
}

/// The gradients of the input and, if the norm `learns`, of gamma and beta, given that of the output.
pub(super) fn backward(
    input: Matrix<'_>,
    gamma: &[f32],
    statistics: Matrix<'_>,
    gradient: Matrix<'_>,
    learns: bool,
) -> [Option<FlexTensor>; 3] {
    let (rows, columns) = (input.rows, input.columns);
    let size = rows_at_once(rows);
    let tasks = rows.div_ceil(size);
    let mut result = Buffer::new([rows, columns]);
    let target = result.writer();
    // What each task sums: gamma's gradient, then beta's.
    let mut sums = vec![0.0; if learns { tasks * 2 * columns } else { 0 }];
    let writer = Writer::new(&mut sums);
    parallel(tasks, WORK * rows * columns, |task| {
        let [start, end] = [task, task + 1].map(|task| rows.min(task * size));
        let part = |matrix: Matrix<'_>| start * matrix.columns..end * matrix.columns;
        // SAFETY: no other task has these sums and these rows.
        let (sums, rows) = unsafe {
            let sums = if learns {
                writer.part(task * 2 * columns, 2 * columns)
            } else {
                Default::default()
            };
            (
                sums,
                target.write(start * columns, &input.values[part(input)]),
            )
        };
        let statistics = &statistics.values[part(statistics)];
        differentiate(
            rows,
            sums,
            statistics,
            gamma,
            &gradient.values[part(gradient)],
        );
    });
    if !learns {
        // SAFETY: the tasks cover all rows.
        return [Some(unsafe { result.filled() }), None, None];
    }
    let mut totals = [Buffer::new([columns]), Buffer::new([columns])];
    for (index, total) in totals.iter_mut().enumerate() {
        // SAFETY: nobody else uses it.
        let total = unsafe { total.writer().fill(0, columns, 0.0) };
        for sums in sums.chunks(columns).skip(index).step_by(2) {
            total
                .iter_mut()
                .zip(sums)
                .for_each(|(total, sum)| *total += sum);
        }
    }
    let [of_gamma, of_beta] = totals;
    // SAFETY: the tasks cover all rows, and the totals are written.
    [result, of_gamma, of_beta].map(|buffer| Some(unsafe { buffer.filled() }))
}

vectorised! {
    /// Replaces rows of the input by their gradient, and adds to gamma's and beta's, if there is where
    /// to.
    fn differentiate(
        rows: &mut [f32],
        sums: &mut [f32],
        statistics: &[f32],
        gamma: &[f32],
        gradients: &[f32],
    ) {
        let columns = gamma.len();
        let middle = sums.len() / 2;
        let (of_gamma, of_beta) = sums.split_at_mut(middle);
        let gradients = gradients.chunks_exact(columns);
        let rows = rows.chunks_exact_mut(columns).zip(gradients);
        for ((row, gradient), statistics) in rows.zip(statistics.chunks_exact(2)) {
            let (mean, scale) = (statistics[0], statistics[1]);
            centre(row, mean);
            row.iter_mut().for_each(|value| *value *= scale);
            let sums = of_gamma.iter_mut().zip(of_beta.iter_mut());
            for (((of_gamma, of_beta), normed), gradient) in sums.zip(&*row).zip(gradient) {
                *of_gamma = gradient.mul_add(*normed, *of_gamma);
                *of_beta += gradient;
            }
            let mean = sum_of([gradient, gamma], |[g, gamma]| g * gamma) / columns as f32;
            let slope = sum_of([gradient, gamma, &*row], |[g, gamma, x]| g * gamma * x);
            let slope = slope / columns as f32;
            for ((value, gradient), gamma) in row.iter_mut().zip(gradient).zip(gamma) {
                *value = scale * (gradient * gamma - mean - *value * slope);
            }
        }
    }
}
