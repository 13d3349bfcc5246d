//! Linear layers: what stands before and after the matrix product is done to one tile of the
//! output while it is in the cache.

use burn::backend::flex::FlexTensor;

use super::buffer::{Buffer, Writer};
use super::dropout::drop_values;
use super::math::{gelu_in_place, gelu_slopes, vectorised};
use super::matrix::{Matrix, Target, product};
use super::prepacked::{self, Factors};
use super::{Mask, Then, parallel};
use crate::Precision;
use crate::kernels::low_precision::Rounded;

/// How a matrix is cut into tasks.
struct Tiles {
    rows: usize,
    columns: usize,
    row_size: usize,
    column_size: usize,
}

impl Tiles {
    /// Tiles of a product of `[rows, depth]` and `[depth, columns]`: enough of them to keep many
    /// threads busy where there is much to do, but large enough that packing, which `gemm` does
    /// for each, stays small beside the product. Columns are cut where a kernel ends.
    fn new([rows, columns]: [usize; 2], depth: usize, tallest: usize, narrowest: usize) -> Self {
        const WORK: usize = 8_000_000;
        const MOST: usize = 32;
        let tasks = (2 * rows * columns * depth).div_ceil(WORK).min(MOST);
        let down = rows.div_ceil(tallest).max(1);
        let across = tasks.div_ceil(down).min(columns.div_ceil(narrowest)).max(1);
        Self {
            rows,
            columns,
            row_size: rows.div_ceil(down).next_multiple_of(8).max(8),
            column_size: columns
                .div_ceil(across)
                .next_multiple_of(narrowest.min(64))
                .max(1),
        }
    }

    fn across(&self) -> usize {
        self.columns.div_ceil(self.column_size)
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(self.row_size) * self.across()
    }

    /// First row, rows, first column and columns of a tile.
    fn tile(&self, index: usize) -> [usize; 4] {
        let row = index / self.across() * self.row_size;
        let column = index % self.across() * self.column_size;
        let rows = self.row_size.min(self.rows - row);
        [
            row,
            rows,
            column,
            self.column_size.min(self.columns - column),
        ]
    }
}

/// The output, `[rows, outputs]`, and what GELU was applied to where that is to be kept. The weight
/// may be prepacked.
pub(super) fn forward(
    input: Matrix<'_>,
    weight: Matrix<'_>,
    bias: &[f32],
    then: Then<Matrix<'_>>,
    mask: Option<Mask>,
    precision: Precision,
) -> (FlexTensor, Option<FlexTensor>) {
    let (rows, depth, outputs) = (input.rows, input.columns, bias.len());
    let is_prepacked = weight.columns != outputs;
    let mut linear = Buffer::new([rows, outputs]);
    let keeps = matches!(then, Then::Gelu { keep: true });
    let mut activated = keeps.then(|| Buffer::new([rows, outputs]));
    let (target, copy) = (linear.writer(), activated.as_mut().map(Buffer::writer));
    let finish = |[row, rows, column, columns]: [usize; 4]| {
        if matches!((then, mask), (Then::End, None)) {
            return;
        }
        for row in row..row + rows {
            let start = row * outputs + column;
            // SAFETY: the tile is the task's in both buffers, and written in the first.
            let values = unsafe {
                let values = target.part(start, columns);
                match copy {
                    Some(copy) => copy.write(start, values),
                    None => values,
                }
            };
            if let Then::Gelu { .. } = then {
                gelu_in_place(values);
            }
            if let Some(mask) = mask {
                drop_values(values, start, mask);
            }
            if let Then::Add(other) = then {
                add_rows(values, other.block(row, 1, column, columns));
            }
        }
    };
    let rounded = rounded(precision, input, weight).filter(|_| !is_prepacked);
    if let Some(rounded) = rounded {
        // SAFETY: both factors are contiguous, and the target has the rows.
        unsafe {
            rounded.product(input, weight, Some(bias), target.at(0), |row, rows| {
                finish([row, rows, 0, outputs]);
            });
        }
    } else {
        let tiles = Tiles::new(
            [rows, outputs],
            depth,
            768,
            if is_prepacked { 32 } else { 128 },
        );
        parallel(tiles.count(), 2 * rows * depth * outputs, |index| {
            let tile @ [row, rows, column, columns] = tiles.tile(index);
            let input = input.block(row, rows, 0, depth);
            let bias = &bias[column..column + columns];
            let start = target.at(row * outputs + column);
            if is_prepacked {
                let panels = &weight.values[column * depth..];
                let factors = Factors {
                    input,
                    panels,
                    columns,
                    bias,
                };
                // SAFETY: no other task has this tile.
                unsafe { prepacked::product(start, outputs, factors) };
            } else {
                let weight = weight.block(0, depth, column, columns);
                // SAFETY: no other task has this tile, and it holds the bias before it is added to.
                unsafe {
                    for row in row..row + rows {
                        target.write(row * outputs + column, bias);
                    }
                    product(start, outputs, input, weight, Target::Add);
                }
            }
            finish(tile);
        });
    }
    // SAFETY: the tiles cover both buffers.
    unsafe {
        match activated {
            Some(activated) => (activated.filled(), Some(linear.filled())),
            None => (linear.filled(), None),
        }
    }
}

/// Turns the gradient of what [`forward`] returns into that of the linear layer's output: undoes
/// dropout, and GELU, which was applied to `before_gelu`.
pub(super) fn activation_backward(
    gradient: &mut [f32],
    before_gelu: Option<&[f32]>,
    mask: Option<Mask>,
) {
    const CHUNK: usize = 16 * 1024;
    let length = gradient.len();
    let gradient = Writer::new(gradient);
    parallel(length.div_ceil(CHUNK), 32 * length, |index| {
        let start = index * CHUNK;
        let end = length.min(start + CHUNK);
        // SAFETY: no other task has this part.
        let gradient = unsafe { gradient.part(start, end - start) };
        if let Some(mask) = mask {
            drop_values(gradient, start, mask);
        }
        if let Some(before) = before_gelu {
            gelu_slopes(gradient, &before[start..end]);
        }
    });
}

vectorised! {
    /// Adds each row to the sums.
    fn add_rows(sums: &mut [f32], rows: Matrix<'_>) {
        for row in rows.values.chunks(rows.row_stride).take(rows.rows) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

vectorised! {
    /// Adds all rows to the sums, a few at a time: a long sum in single precision forgets what is
    /// small beside it.
    fn sum_rows(sums: &mut [f32], rows: Matrix<'_>) {
        const FEW: usize = 16;
        let mut few = vec![0.0; sums.len()];
        for first in (0..rows.rows).step_by(FEW) {
            few.fill(0.0);
            add_rows(&mut few, rows.block(first, FEW.min(rows.rows - first), 0, rows.columns));
            for (sum, few) in sums.iter_mut().zip(&few) {
                *sum += few;
            }
        }
    }
}

/// What multiplies these factors of a layer in the precision, if anything does.
fn rounded(precision: Precision, input: Matrix<'_>, weight: Matrix<'_>) -> Option<Rounded> {
    let is_contiguous =
        |matrix: Matrix<'_>| matrix.column_stride == 1 && matrix.row_stride == matrix.columns;
    let fits = precision == Precision::Bf16
        && input.rows > 0
        && is_contiguous(input)
        && is_contiguous(weight);
    let rounded = fits.then(|| Rounded::new(weight.rows, weight.columns));
    rounded.flatten()
}

/// The gradients of input, weight and bias, given that of the linear layer's output (its rows
/// contiguous); none where they are not `wanted`.
pub(super) fn backward(
    input: Matrix<'_>,
    weight: Matrix<'_>,
    gradient: Matrix<'_>,
    wanted: [bool; 3],
    precision: Precision,
) -> [Option<FlexTensor>; 3] {
    let (rows, depth, outputs) = (input.rows, weight.rows, weight.columns);
    let [wants_input, wants_weight, wants_bias] = wanted;
    let mut buffers = [
        wants_input.then(|| Buffer::new([rows, depth])),
        wants_weight.then(|| Buffer::new([depth, outputs])),
        wants_bias.then(|| Buffer::new([outputs])),
    ];
    let [of_input, of_weight, of_bias] = buffers.each_mut().map(|b| b.as_mut().map(Buffer::writer));

    if let Some(rounded) = rounded(precision, input, weight) {
        // SAFETY: all factors are contiguous, and each target has the rows.
        unsafe {
            if let Some(target) = of_input {
                let target = target.at(0);
                rounded.product(gradient, weight.transposed(), None, target, |_, _| ());
            }
            if let Some(target) = of_weight {
                rounded.long_product(input.transposed(), gradient, target.at(0));
            }
        }
        if let Some(target) = of_bias {
            const COLUMNS: usize = 64;
            parallel(outputs.div_ceil(COLUMNS), rows * outputs, |index| {
                let first = index * COLUMNS;
                let columns = COLUMNS.min(outputs - first);
                let gradient = gradient.block(0, rows, first, columns);
                // SAFETY: no other task has these columns.
                sum_rows(unsafe { target.fill(first, columns, 0.0) }, gradient);
            });
        }
        // SAFETY: every buffer is written.
        return buffers.map(|buffer| buffer.map(|buffer| unsafe { buffer.filled() }));
    }

    // One after the other in one go: the tiles of the input's gradient, then the weight's.
    let first = Tiles::new([rows, depth], outputs, 768, 128);
    let second = Tiles::new([depth, outputs], rows, 384, 64);
    let split = if of_input.is_some() { first.count() } else { 0 };
    let end = split
        + if wants_weight || wants_bias {
            second.count()
        } else {
            0
        };
    parallel(
        end,
        2 * wanted.iter().filter(|w| **w).count() * rows * depth * outputs,
        |index| {
            if index < split {
                let [row, rows, column, columns] = first.tile(index);
                let gradient = gradient.block(row, rows, 0, outputs);
                let weight = weight.block(column, columns, 0, outputs).transposed();
                if let Some(target) = of_input {
                    let target = target.at(row * depth + column);
                    // SAFETY: no other task has this tile.
                    unsafe { product(target, depth, gradient, weight, Target::Write) };
                }
                return;
            }
            let [row, down, column, columns] = second.tile(index - split);
            let gradient = gradient.block(0, rows, column, columns);
            if let Some(target) = of_weight {
                let input = input.block(0, rows, row, down).transposed();
                let target = target.at(row * outputs + column);
                // SAFETY: no other task has this tile.
                unsafe { product(target, outputs, input, gradient, Target::Write) };
            }
            if let (Some(target), 0) = (of_bias, row) {
                // SAFETY: only the tasks of the first row of tiles come here, each with its columns.
                sum_rows(unsafe { target.fill(column, columns, 0.0) }, gradient);
            }
        },
    );
    // SAFETY: the tiles cover every buffer.
    buffers.map(|buffer| buffer.map(|buffer| unsafe { buffer.filled() }))
}
