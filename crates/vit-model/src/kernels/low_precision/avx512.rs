//! AVX512-BF16 and AVX512-VNNI.

#![allow(clippy::needless_range_loop)] // as all these loops are to be unrolled alike

use std::arch::x86_64::*;

use super::layout::{Kind, LINE, Left, PANEL, TALLEST, TILE};

/// Rows that are multiplied at once: their sums, a panel's line and one value stay in registers.
const ROWS: usize = 8;

/// As [`super::amx::block`].
///
/// # Safety
///
/// As there; the CPU has the instructions.
#[inline(always)]
pub(super) unsafe fn block(
    kind: Kind,
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
        let sums = sums.wrapping_add(tile * TALLEST * PANEL);
        for row in (0..rows).step_by(ROWS) {
            let a = a.wrapping_add(row * left.row_stride);
            let sums = sums.wrapping_add(row * PANEL);
            // SAFETY: the caller's promise.
            unsafe {
                match (rows - row).min(ROWS) {
                    1 => rows_by::<1>(kind, left, a, panel, sums),
                    2 => rows_by::<2>(kind, left, a, panel, sums),
                    3 => rows_by::<3>(kind, left, a, panel, sums),
                    4 => rows_by::<4>(kind, left, a, panel, sums),
                    5 => rows_by::<5>(kind, left, a, panel, sums),
                    6 => rows_by::<6>(kind, left, a, panel, sums),
                    7 => rows_by::<7>(kind, left, a, panel, sums),
                    _ => rows_by::<8>(kind, left, a, panel, sums),
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn rows_by<const R: usize>(
    kind: Kind,
    left: &Left,
    a: *const u8,
    panel: *const u8,
    sums: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            Kind::Bf16 => floats::<R>(left, a, panel, sums.cast()),
            Kind::Int8 => integers::<R>(left, a, panel, sums.cast()),
        }
    }
}

#[inline(always)]
unsafe fn floats<const R: usize>(left: &Left, a: *const u8, panel: *const u8, target: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for line in 0..left.lines {
            let a = a.wrapping_add(line * left.line_stride);
            let b = panel.wrapping_add(line * 2 * TILE);
            for four in 0..TALLEST {
                let b = b.wrapping_add(four * LINE);
                let weights = [0, TILE].map(|half| _mm512_loadu_si512(b.wrapping_add(half).cast()));
                for row in 0..R {
                    let value = a
                        .wrapping_add(row * left.row_stride + 4 * four)
                        .cast::<i32>()
                        .read_unaligned();
                    let value = _mm512_set1_epi32(value);
                    for half in 0..2 {
                        sums[row][half] = _mm512_dpbf16_ps(
                            sums[row][half],
                            std::mem::transmute::<__m512i, __m512bh>(value),
                            std::mem::transmute::<__m512i, __m512bh>(weights[half]),
                        );
                    }
                }
            }
        }
        for row in 0..R {
            for half in 0..2 {
                _mm512_storeu_ps(
                    target.wrapping_add(row * PANEL + half * 16),
                    sums[row][half],
                );
            }
        }
    }
}

/// The instruction takes its first factor without a sign: 128 is added to the values, and what that adds to each sum is
/// taken away: 128 times the sum of the column's weights, which the instruction itself adds up.
#[inline(always)]
unsafe fn integers<const R: usize>(left: &Left, a: *const u8, panel: *const u8, target: *mut i32) {
    // SAFETY: the caller's promise.
    unsafe {
        let shift = _mm512_set1_epi8(-128);
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
        let mut shifts = [_mm512_setzero_si512(); 2];
        for line in 0..left.lines {
            let a = a.wrapping_add(line * left.line_stride);
            let b = panel.wrapping_add(line * 2 * TILE);
            for four in 0..TALLEST {
                let b = b.wrapping_add(four * LINE);
                let weights = [0, TILE].map(|half| _mm512_loadu_si512(b.wrapping_add(half).cast()));
                for half in 0..2 {
                    shifts[half] = _mm512_dpbusd_epi32(shifts[half], shift, weights[half]);
                }
                for row in 0..R {
                    let value = a
                        .wrapping_add(row * left.row_stride + 4 * four)
                        .cast::<i32>()
                        .read_unaligned();
                    let value = _mm512_set1_epi32(value ^ 0x8080_8080_u32 as i32);
                    for half in 0..2 {
                        sums[row][half] =
                            _mm512_dpbusd_epi32(sums[row][half], value, weights[half]);
                    }
                }
            }
        }
        for row in 0..R {
            for half in 0..2 {
                let sum = _mm512_sub_epi32(sums[row][half], shifts[half]);
                _mm512_storeu_si512(target.wrapping_add(row * PANEL + half * 16).cast(), sum);
            }
        }
    }
}
