//! AVX-VNNI, and AVX2 alone: integers only.

#![allow(clippy::needless_range_loop)] // as all these loops are to be unrolled alike

use std::arch::x86_64::*;

use super::layout::{LINE, Left, PANEL, TALLEST, TILE};

/// Rows that are multiplied at once, with half of a panel's line.
const ROWS: usize = 4;

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
        for half in 0..2 {
            let (panel, sums) = (
                panel.wrapping_add(half * TILE),
                sums.wrapping_add(half * 16),
            );
            for row in (0..rows).step_by(ROWS) {
                let a = a.wrapping_add(row * left.row_stride);
                let sums = sums.wrapping_add(row * PANEL);
                // SAFETY: the caller's promise.
                unsafe {
                    match (rows - row).min(ROWS) {
                        1 => integers::<1, VNNI>(left, a, panel, sums),
                        2 => integers::<2, VNNI>(left, a, panel, sums),
                        3 => integers::<3, VNNI>(left, a, panel, sums),
                        _ => integers::<4, VNNI>(left, a, panel, sums),
                    }
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
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        for line in 0..left.lines {
            let a = a.wrapping_add(line * left.line_stride);
            let b = panel.wrapping_add(line * 2 * TILE);
            for four in 0..TALLEST {
                let b = b.wrapping_add(four * LINE);
                let weights = [0, 32].map(|half| _mm256_loadu_si256(b.wrapping_add(half).cast()));
                for row in 0..R {
                    let value = a
                        .wrapping_add(row * left.row_stride + 4 * four)
                        .cast::<i32>()
                        .read_unaligned();
                    let value = _mm256_set1_epi32(value);
                    let absolute = _mm256_abs_epi8(value);
                    for half in 0..2 {
                        let signed = _mm256_sign_epi8(weights[half], value);
                        sums[row][half] = if VNNI {
                            _mm256_dpbusd_avx_epi32(sums[row][half], absolute, signed)
                        } else {
                            let pairs = _mm256_maddubs_epi16(absolute, signed);
                            _mm256_add_epi32(sums[row][half], _mm256_madd_epi16(pairs, ones))
                        };
                    }
                }
            }
        }
        for row in 0..R {
            for half in 0..2 {
                _mm256_storeu_si256(
                    target.wrapping_add(row * PANEL + half * 8).cast(),
                    sums[row][half],
                );
            }
        }
    }
}
