//! Factors of 32-bit floats, rounded to bfloat16 on their way into a product, two by two as the instructions read them.

use std::arch::x86_64::*;

use super::layout::{LINE, PANEL, TALLEST, TILE};
use crate::kernels::flex::Matrix;

/// Sixteen by sixteen pairs of bfloat16.
type Square = [__m512i; TALLEST];

/// Values of a pair.
const PAIR: usize = 2;
/// Values of a line.
const VALUES: usize = LINE / PAIR;

/// Writes a panel of the right factor, `[depth, columns]`, which lies row by row, or column by column.
///
/// # Safety
///
/// The CPU has AVX-512 F, BW, VL, DQ and BF16; the target has the panel's lines.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn write_panel(right: Matrix<'_>, panel: usize, target: *mut u8) {
    let lines = right.rows.div_ceil(VALUES);
    for line in 0..lines {
        for half in 0..PANEL / TALLEST {
            let column = panel * PANEL + half * TALLEST;
            let target = target.wrapping_add((line * 2 + half) * TILE);
            // SAFETY: the caller's promise.
            unsafe {
                let square = if column >= right.columns {
                    [_mm512_setzero_si512(); TALLEST]
                } else if right.column_stride == 1 {
                    down(right, line * VALUES, column)
                } else {
                    transposed(across(right.transposed(), column, line * VALUES))
                };
                write(square, target);
            }
        }
    }
}

/// Writes a row of tiles of the left factor, `[rows, depth]`, which lies column by column.
///
/// # Safety
///
/// As [`write_panel`]; the target has the tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn write_tiles(left: Matrix<'_>, tile: usize, target: *mut u8) {
    let columns = left.transposed();
    for line in 0..columns.rows.div_ceil(VALUES) {
        // SAFETY: the caller's promise.
        unsafe {
            let square = transposed(down(columns, line * VALUES, tile * TALLEST));
            write(square, target.wrapping_add(line * TILE));
        }
    }
}

/// Pairs of values one below the other, of 32 rows and sixteen columns; beyond the last row there are zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn down(matrix: Matrix<'_>, row: usize, column: usize) -> Square {
    let order: [u16; 32] = std::array::from_fn(|at| (at / 2 + at % 2 * 16) as u16);
    let start = matrix.values.as_ptr().wrapping_add(column);
    let zero = _mm512_setzero_ps();
    // SAFETY: the rows are there, and the matrix has whole vectors of columns.
    unsafe {
        let order = _mm512_loadu_si512(order.as_ptr().cast());
        let values = |row: usize| {
            if row < matrix.rows {
                _mm512_loadu_ps(start.wrapping_add(row * matrix.row_stride))
            } else {
                zero
            }
        };
        std::array::from_fn(|pair| {
            let row = row + PAIR * pair;
            _mm512_permutexvar_epi16(order, rounded(values(row), values(row + 1)))
        })
    }
}

/// Pairs of values side by side, of sixteen rows and 32 columns; beyond the last column there are zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn across(matrix: Matrix<'_>, row: usize, column: usize) -> Square {
    let is_whole = column + VALUES <= matrix.columns;
    std::array::from_fn(|index| {
        let at = (row + index) * matrix.row_stride + column;
        let start = matrix.values.as_ptr().wrapping_add(at);
        // SAFETY: the rows are there, and the matrix has whole vectors of columns.
        unsafe {
            let above = if is_whole {
                _mm512_loadu_ps(start.wrapping_add(VALUES / 2))
            } else {
                _mm512_setzero_ps()
            };
            rounded(_mm512_loadu_ps(start), above)
        }
    })
}

/// Both, one after the other, to the nearest, ties to even.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Rows as columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: Square) -> Square {
    let mut pairs = rows;
    for at in (0..TALLEST).step_by(2) {
        pairs[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
        pairs[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
    }
    let mut fours = rows;
    for at in (0..TALLEST).step_by(4) {
        fours[at] = _mm512_unpacklo_epi64(pairs[at], pairs[at + 2]);
        fours[at + 1] = _mm512_unpackhi_epi64(pairs[at], pairs[at + 2]);
        fours[at + 2] = _mm512_unpacklo_epi64(pairs[at + 1], pairs[at + 3]);
        fours[at + 3] = _mm512_unpackhi_epi64(pairs[at + 1], pairs[at + 3]);
    }
    // Each quarter of `fours[4 * i + j]` is column `4 * quarter + j` of rows `4 * i` to `4 * i + 3`.
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xdd;
    let mut result = rows;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let even = [
            _mm512_shuffle_i32x4::<EVEN>(a, b),
            _mm512_shuffle_i32x4::<EVEN>(c, d),
        ];
        let odd = [
            _mm512_shuffle_i32x4::<ODD>(a, b),
            _mm512_shuffle_i32x4::<ODD>(c, d),
        ];
        result[j] = _mm512_shuffle_i32x4::<EVEN>(even[0], even[1]);
        result[8 + j] = _mm512_shuffle_i32x4::<ODD>(even[0], even[1]);
        result[4 + j] = _mm512_shuffle_i32x4::<EVEN>(odd[0], odd[1]);
        result[12 + j] = _mm512_shuffle_i32x4::<ODD>(odd[0], odd[1]);
    }
    result
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn write(square: Square, target: *mut u8) {
    for (index, line) in square.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(target.wrapping_add(index * LINE).cast(), line) };
    }
}
