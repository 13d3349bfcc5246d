//! Matrices in memory, and their products.

use burn::backend::flex::FlexTensor;

/// A matrix of 32-bit floats, read in place.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Matrix<'a> {
    /// What it lies in; starts with its first value.
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    /// From a value to the one below it.
    pub row_stride: usize,
    /// From a value to the one to its right.
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A view of a tensor of two dimensions (or of one: a single row).
    ///
    /// # Panics
    ///
    /// Panics where a stride is negative; Burn has none outside of `flip`.
    pub fn new(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let stride = |stride: isize| usize::try_from(stride).expect("a matrix that is not flipped");
        let (rows, columns, row_stride, column_stride) =
            match (&layout.shape()[..], layout.strides()) {
                (&[columns], &[across]) => (1, columns, columns, stride(across)),
                (&[rows, columns], &[down, across]) => {
                    (rows, columns, stride(down), stride(across))
                }
                (shape, _) => panic!("a matrix has two dimensions, not {shape:?}"),
            };
        Self {
            values: &tensor.storage::<f32>()[layout.start_offset()..],
            rows,
            columns,
            row_stride,
            column_stride,
        }
    }

    /// As many rows as `values` has, `row_stride` apart, of which the first `columns` values count.
    pub fn of_rows(values: &'a [f32], columns: usize, row_stride: usize) -> Self {
        Self {
            values,
            rows: values.len() / row_stride,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    /// `rows` by `columns` values from `(row, column)` on.
    pub fn block(self, row: usize, rows: usize, column: usize, columns: usize) -> Self {
        debug_assert!(row + rows <= self.rows && column + columns <= self.columns);
        let start = row * self.row_stride + column * self.column_stride;
        Self {
            values: &self.values[start..],
            rows,
            columns,
            ..self
        }
    }

    /// The same values, rows as columns.
    pub fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// What becomes of the values that the product's target holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// They are overwritten unread.
    Write,
    /// The product is added to them.
    Add,
}

/// `target = a b` or `target += a b` on this thread; the target's rows stand `row_stride` apart.
///
/// # Safety
///
/// The target may be written, by nobody else meanwhile; to be added to, it is initialised.
pub(super) unsafe fn product(
    target: *mut f32,
    row_stride: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    mode: Target,
) {
    assert!(a.columns == b.rows && a.columns > 0, "factors that fit");
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    if a.rows == 1 && b.columns > 1 && a.columns > 1 {
        // `gemm` sums a single row in another order than a row among others: CLS alone would get
        // other values dropped than masked. So it is given the row twice.
        let twice = Matrix {
            rows: 2,
            row_stride: 0,
            ..a
        };
        let mut rows = vec![0.0; 2 * b.columns];
        // SAFETY: the target has a row, which is initialised where it is added to.
        unsafe {
            if mode == Target::Add {
                for row in rows.chunks_exact_mut(b.columns) {
                    row.as_mut_ptr().copy_from_nonoverlapping(target, b.columns);
                }
            }
            product(rows.as_mut_ptr(), b.columns, twice, b, mode);
            target.copy_from_nonoverlapping(rows.as_ptr(), b.columns);
        }
        return;
    }
    let end = |m: Matrix<'_>| (m.rows - 1) * m.row_stride + (m.columns - 1) * m.column_stride;
    assert!(end(a) < a.values.len() && end(b) < b.values.len());
    // SAFETY: both factors lie within their slices; the caller answers for the target.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            target,
            1,
            row_stride as isize,
            mode == Target::Add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
