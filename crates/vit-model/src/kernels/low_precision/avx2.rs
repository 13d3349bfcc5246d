//! AVX-VNNI, and AVX2 alone: integers only.

#![allow(clippy::needless_range_loop)] // as all these loops are to be unrolled alike

use std::arch::x86_64::*;

use super::layout::{LINE, Left, PANEL, TALLEST, TILE};

/// Rows that are multiplied at once with a panel's line: with more, the registers do not suffice.
const ROWS: usize = 2;
/// Vectors of a panel's line.
const VECTORS: usize = 4;

/// As [`super::amx::block`], of integers; `VNNI` says whether the CPU has AVX-VNNI.
///
/// # Safety
///
/// As there; the CPU has the instructions.
#[inline(always)]
pub(super) unsafe fn block<const VNNI: bool>(
    left: &Left,
    first: usize,
    tiles: usize,
    panel: *const u8,
    sums: *mut u32,
    between: impl FnMut(usize),
) {
    (0..left.lines).for_each(between);
    for tile in 0..tiles {
        let rows = left.rows.of(first + tile);
        let a = left.start.wrapping_add((first + tile) * left.tile_stride);
        let sums = sums.wrapping_add(tile * TALLEST * PANEL).cast::<i32>();
        for row in (0..rows).step_by(ROWS) {
            let a = a.wrapping_add(row * left.row_stride);
            let sums = sums.wrapping_add(row * PANEL);
            // SAFETY: the caller's promise.
            unsafe {
                if row + 1 == rows {
                    integers::<1, VNNI>(left, a, panel, sums);
                } else {
                    integers::<ROWS, VNNI>(left, a, panel, sums);
                }
            }
        }
    }
}

/// `maddubs` multiplies values without a sign by values with one and adds pairs in 16 bits, where they may not fit. Here the
/// first factor is the absolute value, at most 127, and its sign goes to the second: two products are at most
/// 2 * 127 * 127 = 32258, which fits, and nothing is ever cut off. (-128 is never written by our quantisation.)
#[inline(always)]
unsafe fn integers<const R: usize, const VNNI: bool>(
    left: &Left,
    a: *const u8,
    panel: *const u8,
    target: *mut i32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); VECTORS]; R];
        for line in 0..left.lines {
            let a = a.wrapping_add(line * left.line_stride);
            let b = panel.wrapping_add(line * 2 * TILE);
            for four in 0..TALLEST {
                let b = b.wrapping_add(four * LINE);
                for row in 0..R {
                    let value = a
                        .wrapping_add(row * left.row_stride + 4 * four)
                        .cast::<i32>()
                        .read_unaligned();
                    let value = _mm256_set1_epi32(value);
                    let absolute = _mm256_abs_epi8(value);
                    for (vector, sum) in sums[row].iter_mut().enumerate() {
                        let weights = b.wrapping_add(vector / 2 * TILE + vector % 2 * (LINE / 2));
                        let weights = _mm256_load_si256(weights.cast());
                        let signed = _mm256_sign_epi8(weights, value);
                        *sum = if VNNI {
                            _mm256_dpbusd_avx_epi32(*sum, absolute, signed)
                        } else {
                            let pairs = _mm256_maddubs_epi16(absolute, signed);
                            _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones))
                        };
                    }
                }
            }
        }
        for row in 0..R {
            for (vector, sum) in sums[row].into_iter().enumerate() {
                let target = target.wrapping_add(row * PANEL + vector * (PANEL / VECTORS));
                _mm256_storeu_si256(target.cast(), sum);
            }
        }
    }
}
