//! Products with weights that were laid out beforehand, as the kernel reads them.
//!
//! `gemm` lays out the weights anew for each product, which costs as much for one image as for
//! many, and by then the product of one pruned image is small.

use burn::backend::flex::FlexTensor;
use pulp::{Arch, Simd, WithSimd};

use super::buffer::Buffer;
use super::matrix::Matrix;
use super::parallel;

/// Vectors side by side in a panel's row.
const VECTORS: usize = 2;

/// Rows of the input that stay in the level 2 cache while all panels pass by.
const ROWS: usize = 192;

/// So much of a panel stays in the level 1 cache while all these rows pass by.
const DEPTH: usize = 512;

/// Columns of a panel on this machine; none where it has no vectors worth the name.
fn panel_width() -> Option<usize> {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    let lanes = Arch::new().dispatch(Lanes);
    (lanes >= 4).then_some(VECTORS * lanes)
}

/// `[depth, outputs]` cut into panels of columns, one below the other, the last filled up with
/// zeros: `[outputs / width * depth, width]`. None where this machine gains nothing by it.
pub(super) fn prepack(weight: Matrix<'_>) -> Option<FlexTensor> {
    let width = panel_width()?;
    let Matrix { rows, columns, .. } = weight;
    let panels = columns.div_ceil(width);
    let mut packed = Buffer::new([panels * rows, width]);
    let writer = packed.writer();
    parallel(panels, 8 * rows * columns, |panel| {
        let first = panel * width;
        let exist = width.min(columns - first);
        let mut values = vec![0.0; width];
        for row in 0..rows {
            let start = row * weight.row_stride + first * weight.column_stride;
            for (column, value) in values[..exist].iter_mut().enumerate() {
                *value = weight.values[start + column * weight.column_stride];
            }
            // SAFETY: no other task has this panel.
            unsafe { writer.write((panel * rows + row) * width, &values) };
        }
    });
    // SAFETY: the tasks cover all panels.
    Some(unsafe { packed.filled() })
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
    let Factors { input, bias, .. } = factors;
    assert!(input.column_stride == 1 && bias.len() == factors.columns);
    if input.rows == 0 {
        return;
    }
    assert!((input.rows - 1) * input.row_stride + input.columns <= input.values.len());
    let blocks = input.rows.div_ceil(ROWS);
    let size = input.rows.div_ceil(blocks);
    for first in (0..input.rows).step_by(size) {
        let rows = size.min(input.rows - first);
        let input = input.block(first, rows, 0, input.columns);
        Arch::new().dispatch(Sweep {
            target: target.wrapping_add(first * row_stride),
            row_stride,
            factors: Factors { input, ..factors },
        });
    }
}

/// All panels; for each part of their depth all rows.
///
/// Only [`product`] makes one: it checked input and bias, and its caller answers for the target.
struct Sweep<'a> {
    target: *mut f32,
    row_stride: usize,
    factors: Factors<'a>,
}

impl WithSimd for Sweep<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // What the registers hold: the sums, a panel's row, and a value of the input.
        match S::REGISTER_COUNT {
            32.. => self.run::<S, 12>(simd),
            _ => self.run::<S, 6>(simd),
        }
    }
}

impl Sweep<'_> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let Factors {
            input,
            panels,
            columns,
            bias,
        } = self.factors;
        let (depth, panel_width) = (input.columns, VECTORS * S::F32_LANES);
        assert!(panels.len() >= columns.div_ceil(panel_width) * depth * panel_width);
        for (panel, column) in (0..columns).step_by(panel_width).enumerate() {
            let width = panel_width.min(columns - column);
            for start in (0..depth).step_by(DEPTH) {
                let mut tile = Tile {
                    simd,
                    input: input.values.as_ptr().wrapping_add(start),
                    input_stride: input.row_stride,
                    panel: panels
                        .as_ptr()
                        .wrapping_add((panel * depth + start) * panel_width),
                    depth: DEPTH.min(depth - start),
                    bias: (start == 0).then(|| bias.as_ptr().wrapping_add(column)),
                    target: self.target.wrapping_add(column),
                    target_stride: self.row_stride,
                    width,
                };
                let mut left = input.rows;
                // SAFETY: the tile lies in the factors and in the target for as many rows as are
                // left; from the second part of the depth on, the target holds a sum.
                unsafe {
                    while left >= R {
                        tile.multiply::<R>();
                        tile.down(R);
                        left -= R;
                    }
                    match left {
                        0 => {}
                        1 => tile.multiply::<1>(),
                        2 => tile.multiply::<2>(),
                        3 => tile.multiply::<3>(),
                        4 => tile.multiply::<4>(),
                        5 => tile.multiply::<5>(),
                        6 => tile.multiply::<6>(),
                        7 => tile.multiply::<7>(),
                        8 => tile.multiply::<8>(),
                        9 => tile.multiply::<9>(),
                        10 => tile.multiply::<10>(),
                        _ => tile.multiply::<11>(),
                    }
                }
            }
        }
    }
}

/// As much of the target as fits into registers, and what it is computed from.
struct Tile<S> {
    simd: S,
    input: *const f32,
    input_stride: usize,
    panel: *const f32,
    depth: usize,
    /// What the sum starts with; none where it starts with what the target holds.
    bias: Option<*const f32>,
    target: *mut f32,
    target_stride: usize,
    /// Columns of the panel that exist in bias and target.
    width: usize,
}

impl<S: Simd> Tile<S> {
    /// `R` rows by a panel.
    ///
    /// # Safety
    ///
    /// Input, panel, bias and target are as large as the tile says; without bias, the target is
    /// initialised.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // as all these loops are to be unrolled alike
    unsafe fn multiply<const R: usize>(&self) {
        const { assert!(R <= 12, "no more rows are left than that") };
        let simd = self.simd;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; R];
        for row in 0..R {
            let target = self.target.wrapping_add(row * self.target_stride);
            // SAFETY: the caller's promise.
            sums[row] = unsafe { self.read(self.bias.unwrap_or(target)) };
        }
        let vectors = self.panel.cast::<S::f32s>();
        for k in 0..self.depth {
            // SAFETY: the panel and the rows are `depth` long.
            let weights: [S::f32s; VECTORS] =
                [0, 1].map(|index| unsafe { vectors.add(k * VECTORS + index).read_unaligned() });
            for row in 0..R {
                // SAFETY: as above.
                let value = unsafe { *self.input.add(row * self.input_stride + k) };
                let value = simd.splat_f32s(value);
                for index in 0..VECTORS {
                    let sum = &mut sums[row][index];
                    *sum = simd.mul_add_e_f32s(value, weights[index], *sum);
                }
            }
        }
        for row in 0..R {
            let target = self.target.wrapping_add(row * self.target_stride);
            // SAFETY: the caller's promise.
            unsafe { self.write(target, sums[row]) };
        }
    }

    /// The columns that exist; zeros where not.
    #[inline(always)]
    unsafe fn read(&self, start: *const f32) -> [S::f32s; VECTORS] {
        let mut vectors = [self.simd.splat_f32s(0.0); VECTORS];
        let target = vectors.as_mut_ptr();
        // SAFETY: `width` values exist, and a panel's row has no more.
        unsafe {
            if self.width == VECTORS * S::F32_LANES {
                return start.cast::<[S::f32s; VECTORS]>().read_unaligned();
            } else {
                target
                    .cast::<f32>()
                    .copy_from_nonoverlapping(start, self.width)
            }
        }
        vectors
    }

    /// Writes the columns that exist.
    #[inline(always)]
    unsafe fn write(&self, start: *mut f32, vectors: [S::f32s; VECTORS]) {
        // SAFETY: as in `read`.
        unsafe {
            if self.width == VECTORS * S::F32_LANES {
                start.cast::<[S::f32s; VECTORS]>().write_unaligned(vectors)
            } else {
                start.copy_from_nonoverlapping(vectors.as_ptr().cast(), self.width)
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
