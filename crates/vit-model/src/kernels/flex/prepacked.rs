//! Products with weights that were laid out beforehand, as the kernel reads them.
//!
//! `gemm` lays out the weights anew for each product, which costs as much for one image as for
//! many, and by then the product of one pruned image is small.

use burn::backend::flex::FlexTensor;

use super::buffer::Buffer;
use super::matrix::Matrix;
use super::parallel;

/// Columns of a panel: a vector of AVX-512, two of AVX2, four of NEON.
pub(super) const PANEL: usize = 16;

/// Rows of the input that stay in the level 2 cache while all panels pass by.
const ROWS: usize = 192;

/// So much of a panel stays in the level 1 cache while all these rows pass by.
const DEPTH: usize = 512;

/// `[depth, outputs]` cut into panels of [`PANEL`] columns, one below the other, the last filled
/// up with zeros: `[outputs / PANEL * depth, PANEL]`.
pub(super) fn prepack(weight: Matrix<'_>) -> FlexTensor {
    let Matrix { rows, columns, .. } = weight;
    let panels = columns.div_ceil(PANEL);
    let mut packed = Buffer::new([panels * rows, PANEL]);
    let writer = packed.writer();
    parallel(panels, 8 * rows * columns, |panel| {
        let first = panel * PANEL;
        let width = PANEL.min(columns - first);
        for row in 0..rows {
            let start = row * weight.row_stride + first * weight.column_stride;
            let values: [f32; PANEL] = std::array::from_fn(|column| match column < width {
                true => weight.values[start + column * weight.column_stride],
                false => 0.0,
            });
            // SAFETY: no other task has this panel.
            unsafe { writer.write((panel * rows + row) * PANEL, &values) };
        }
    });
    // SAFETY: the tasks cover all panels.
    unsafe { packed.filled() }
}

/// What is multiplied with which columns of the weight.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    /// Its columns contiguous.
    pub input: Matrix<'a>,
    /// What [`prepack`] returned, from the first of the columns on, which starts a panel.
    pub panels: &'a [f32],
    pub columns: usize,
    /// For each of the columns.
    pub bias: &'a [f32],
}

/// Writes `input weight + bias` to the target, whose rows stand `row_stride` apart.
///
/// Each value is summed in one order, whatever the rows and columns around it.
///
/// # Safety
///
/// The target may be written, by nobody else meanwhile.
pub(super) unsafe fn product(target: *mut f32, row_stride: usize, factors: Factors<'_>) {
    let Factors { input, panels, columns, bias } = factors;
    assert!(input.column_stride == 1 && bias.len() == columns);
    assert!(panels.len() >= columns.div_ceil(PANEL) * input.columns * PANEL);
    if input.rows == 0 {
        return;
    }
    assert!((input.rows - 1) * input.row_stride + input.columns <= input.values.len());
    let blocks = input.rows.div_ceil(ROWS);
    let size = input.rows.div_ceil(blocks);
    for first in (0..input.rows).step_by(size) {
        let rows = size.min(input.rows - first);
        let input = input.block(first, rows, 0, input.columns);
        let target = target.wrapping_add(first * row_stride);
        // SAFETY: the factors are as large as they have to be; the caller answers for the target.
        unsafe { sweep_here(target, row_stride, Factors { input, ..factors }) };
    }
}

/// [`sweep`] with the registers that this machine has.
unsafe fn sweep_here(target: *mut f32, row_stride: usize, factors: Factors<'_>) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        unsafe fn avx512(target: *mut f32, row_stride: usize, factors: Factors<'_>) {
            // SAFETY: the caller's promise.
            unsafe { sweep::<12, 2>(target, row_stride, factors) };
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(target: *mut f32, row_stride: usize, factors: Factors<'_>) {
            // SAFETY: the caller's promise.
            unsafe { sweep::<6, 1>(target, row_stride, factors) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw");
            // SAFETY: this machine has the instructions; else the caller's promise.
            return unsafe {
                match wide {
                    true => avx512(target, row_stride, factors),
                    false => avx2(target, row_stride, factors),
                }
            };
        }
    }
    // SAFETY: the caller's promise.
    unsafe { sweep::<6, 1>(target, row_stride, factors) };
}

/// All panels, `P` of them at once; for each part of their depth all rows, `R` of them at once.
///
/// # Safety
///
/// As for [`product`], which checked the factors.
#[inline(always)]
unsafe fn sweep<const R: usize, const P: usize>(
    target: *mut f32,
    row_stride: usize,
    factors: Factors<'_>,
) {
    let panels = factors.columns.div_ceil(PANEL);
    let whole = panels / P * P;
    for panel in (0..whole).step_by(P) {
        // SAFETY: the caller's promise.
        unsafe { all_rows::<R, P>(target, row_stride, factors, panel) };
    }
    for panel in whole..panels {
        // SAFETY: the caller's promise.
        unsafe { all_rows::<R, 1>(target, row_stride, factors, panel) };
    }
}

/// All rows by `P` panels.
#[inline(always)]
unsafe fn all_rows<const R: usize, const P: usize>(
    target: *mut f32,
    row_stride: usize,
    Factors { input, panels, columns, bias }: Factors<'_>,
    panel: usize,
) {
    let depth = input.columns;
    let column = panel * PANEL;
    let width = (P * PANEL).min(columns - column);
    let bias = &bias[column..column + width];
    for start in (0..depth).step_by(DEPTH) {
        let mut tile = Tile {
            input: input.values.as_ptr().wrapping_add(start),
            input_stride: input.row_stride,
            panel: panels.as_ptr().wrapping_add((panel * depth + start) * PANEL),
            panel_stride: depth * PANEL,
            depth: DEPTH.min(depth - start),
            bias: (start == 0).then_some(bias.as_ptr()),
            target: target.wrapping_add(column),
            target_stride: row_stride,
            width,
        };
        let mut left = input.rows;
        // SAFETY: the tile lies in the factors and in the target for as many rows as are left.
        unsafe {
            while left >= R {
                tile.multiply::<R, P>();
                tile.down(R);
                left -= R;
            }
            match left {
                0 => {}
                1 => tile.multiply::<1, P>(),
                2 => tile.multiply::<2, P>(),
                3 => tile.multiply::<3, P>(),
                4 => tile.multiply::<4, P>(),
                5 => tile.multiply::<5, P>(),
                6 => tile.multiply::<6, P>(),
                7 => tile.multiply::<7, P>(),
                8 => tile.multiply::<8, P>(),
                9 => tile.multiply::<9, P>(),
                10 => tile.multiply::<10, P>(),
                _ => tile.multiply::<11, P>(),
            }
        }
    }
}

/// What fits into registers of the target, and what it is computed from.
struct Tile {
    input: *const f32,
    input_stride: usize,
    /// The first panel.
    panel: *const f32,
    /// From a panel to the next.
    panel_stride: usize,
    depth: usize,
    /// What the sum starts with; none where it starts with what the target holds.
    bias: Option<*const f32>,
    target: *mut f32,
    target_stride: usize,
    /// Columns of the target that exist.
    width: usize,
}

impl Tile {
    /// `R` rows by `P` panels.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // iterators here are not vectorised
    unsafe fn multiply<const R: usize, const P: usize>(&self) {
        const { assert!(R <= 12, "all_rows has no more rows left than that") };
        // `sums` are in registers as long as nothing takes a part of them by reference.
        let mut sums = [[[0.0_f32; PANEL]; P]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            for (panel, sums) in sums.iter_mut().enumerate() {
                let column = panel * PANEL;
                let start = match self.bias {
                    Some(bias) => bias.wrapping_add(column),
                    None => self.target.wrapping_add(row * self.target_stride + column),
                };
                // SAFETY: bias and target have these columns; without bias, the target holds a sum.
                *sums = unsafe { read(start, self.width - column) };
            }
        }
        for k in 0..self.depth {
            // SAFETY: panels and rows are at least `depth` long.
            let weights: [&[f32; PANEL]; P] = std::array::from_fn(|panel| unsafe {
                &*self.panel.add(panel * self.panel_stride + k * PANEL).cast()
            });
            for row in 0..R {
                // SAFETY: as above.
                let value = unsafe { *self.input.add(row * self.input_stride + k) };
                for panel in 0..P {
                    for column in 0..PANEL {
                        let sum = &mut sums[row][panel][column];
                        *sum = value.mul_add(weights[panel][column], *sum);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (panel, sums) in sums.iter().enumerate() {
                let column = panel * PANEL;
                let start = self.target.wrapping_add(row * self.target_stride + column);
                // SAFETY: the caller may write the target, which has these columns.
                unsafe { write(start, self.width - column, *sums) };
            }
        }
    }

    /// Moves on to the rows below.
    #[inline(always)]
    fn down(&mut self, rows: usize) {
        self.input = self.input.wrapping_add(rows * self.input_stride);
        self.target = self.target.wrapping_add(rows * self.target_stride);
    }
}

/// The values of a panel's row of which `width` exist.
#[inline(always)]
unsafe fn read(start: *const f32, width: usize) -> [f32; PANEL] {
    if width >= PANEL {
        // SAFETY: they exist.
        return unsafe { *start.cast() };
    }
    let mut values = [0.0; PANEL];
    for (column, value) in values.iter_mut().enumerate().take(width) {
        // SAFETY: it exists.
        *value = unsafe { *start.add(column) };
    }
    values
}

/// Writes those values of a panel's row that exist.
#[inline(always)]
unsafe fn write(start: *mut f32, width: usize, values: [f32; PANEL]) {
    if width >= PANEL {
        // SAFETY: they exist.
        return unsafe { start.cast::<[f32; PANEL]>().write(values) };
    }
    for (column, value) in values.into_iter().enumerate().take(width) {
        // SAFETY: it exists.
        unsafe { start.add(column).write(value) };
    }
}
