//! AVX512-BF16 and AVX512-VNNI.

#![allow(clippy::needless_range_loop)] // as all these loops are to be unrolled alike

use std::arch::x86_64::*;

use super::layout::{Kind, LINE, Left, PANEL, Panel, TALLEST, TILE};

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
    panel: Panel,
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
    panel: Panel,
    sums: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            Kind::Bf16 => floats::<R>(left, a, panel.start, sums.cast()),
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

/// The instruction takes its first factor without a sign. So the rows were written with 128 added
/// ([`Instructions::flipped_bits`]), and each sum starts from what takes that away again: -128 times the sum of the
/// column's weights.
///
/// [`Instructions::flipped_bits`]: super::cpu::Instructions::flipped_bits
#[inline(always)]
unsafe fn integers<const R: usize>(left: &Left, a: *const u8, panel: Panel, target: *mut i32) {
    // SAFETY: the caller's promise.
    unsafe {
        let shifts =
            [0, TALLEST].map(|half| _mm512_loadu_si512(panel.shifts.wrapping_add(half).cast()));
        let mut sums = [shifts; R];
        for line in 0..left.lines {
            let a = a.wrapping_add(line * left.line_stride);
            let b = panel.start.wrapping_add(line * 2 * TILE);
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
                        sums[row][half] =
                            _mm512_dpbusd_epi32(sums[row][half], value, weights[half]);
                    }
                }
            }
        }
        for row in 0..R {
            for half in 0..2 {
                let target = target.wrapping_add(row * PANEL + half * 16);
                _mm512_storeu_si512(target.cast(), sums[row][half]);
            }
        }
    }
}
