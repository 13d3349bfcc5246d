//! Rows on their way into a product: normed, rounded, quantised.

use super::cpu::Instructions;
use super::lanes::{LANES, Lanes, Pair, Wide};
use super::layout::{Kind, LINE, Rows, TILE};

/// Where the rows of a left factor go, and what reads them.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub set: Instructions,
    pub kind: Kind,
    pub start: *mut u8,
    pub rows: Rows,
    pub lines: usize,
    /// What each row's integers are to be multiplied by.
    pub scales: *mut f32,
}

// SAFETY: pointers; what is done through them is in the hands of those who use them.
unsafe impl Sync for Tiles {}

/// Layer norm's parameters.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub epsilon: f32,
}

/// What rows are made of.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// Layer norm of these floats.
    Normed(*const f32, Norm<'a>),
    /// These floats.
    Floats(*const f32),
    /// These bfloat16.
    Bf16(*const u16),
}

// SAFETY: pointers; what is done through them is in the hands of those who use them.
unsafe impl Sync for Source<'_> {}

/// Writes some rows, of `columns` values each (a multiple of sixteen), into the tiles.
///
/// # Safety
///
/// The instructions are there; source and tiles have the rows, and nobody else uses those of the tiles.
pub(super) unsafe fn write(
    source: Source<'_>,
    columns: usize,
    rows: std::ops::Range<usize>,
    tiles: Tiles,
) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    unsafe fn wide(source: Source<'_>, columns: usize, rows: std::ops::Range<usize>, tiles: Tiles) {
        // SAFETY: the caller's promise.
        unsafe { write_by::<Wide>(source, columns, rows, tiles) }
    }
    #[target_feature(enable = "avx2,fma")]
    unsafe fn pair(source: Source<'_>, columns: usize, rows: std::ops::Range<usize>, tiles: Tiles) {
        // SAFETY: the caller's promise.
        unsafe { write_by::<Pair>(source, columns, rows, tiles) }
    }
    // SAFETY: the caller's promise.
    unsafe {
        match tiles.set {
            Instructions::Amx | Instructions::Avx512 => wide(source, columns, rows, tiles),
            Instructions::AvxVnni | Instructions::Avx2 => pair(source, columns, rows, tiles),
        }
    }
}

#[inline(always)]
unsafe fn write_by<L: Lanes>(
    source: Source<'_>,
    columns: usize,
    rows: std::ops::Range<usize>,
    tiles: Tiles,
) {
    let vectors = columns / LANES;
    let (mut tile, mut within) = tiles.rows.place(rows.start);
    for row in rows {
        let target = tiles
            .start
            .wrapping_add(tile * tiles.lines * TILE + within * LINE);
        // SAFETY: the caller's promise.
        unsafe {
            match source {
                Source::Normed(start, norm) => {
                    let start = start.wrapping_add(row * columns);
                    let read = |vector: usize| L::load(start.wrapping_add(vector * LANES));
                    let (mut sums, mut squares) = ([L::splat(0.0); 2], [L::splat(0.0); 2]);
                    for vector in 0..vectors {
                        sums[vector % 2] = sums[vector % 2].add(read(vector));
                    }
                    let mean = L::splat(sums[0].add(sums[1]).sum() / columns as f32);
                    for vector in 0..vectors {
                        let centred = read(vector).sub(mean);
                        squares[vector % 2] = centred.mul_add(centred, squares[vector % 2]);
                    }
                    let variance = squares[0].add(squares[1]).sum() / columns as f32;
                    let scale = L::splat((variance + norm.epsilon).sqrt().recip());
                    let (gamma, beta) = (norm.gamma.as_ptr(), norm.beta.as_ptr());
                    write_row(tiles, row, target, vectors, |vector| {
                        let gamma = L::load(gamma.wrapping_add(vector * LANES)).mul(scale);
                        read(vector)
                            .sub(mean)
                            .mul_add(gamma, L::load(beta.wrapping_add(vector * LANES)))
                    });
                }
                Source::Floats(start) => {
                    let start = start.wrapping_add(row * columns);
                    write_row(tiles, row, target, vectors, |vector| {
                        L::load(start.wrapping_add(vector * LANES))
                    });
                }
                Source::Bf16(start) => {
                    let start = start.wrapping_add(row * columns);
                    write_row(tiles, row, target, vectors, |vector| {
                        L::load_bf16(start.wrapping_add(vector * LANES))
                    });
                }
            }
        }
        within += 1;
        if within == tiles.rows.height {
            (tile, within) = (tile + 1, 0);
        }
    }
}

/// A row, rounded or quantised: the largest value becomes 127 or -127.
#[inline(always)]
unsafe fn write_row<L: Lanes>(
    tiles: Tiles,
    row: usize,
    target: *mut u8,
    vectors: usize,
    value: impl Fn(usize) -> L,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match tiles.kind {
            Kind::Bf16 => {
                let at = |vector: usize| vector / 2 * TILE + vector % 2 * (LINE / 2);
                for vector in 0..vectors {
                    value(vector).store_bf16(target.wrapping_add(at(vector)).cast());
                }
                // What pads the last line must be a number: zeros times anything else are not zero.
                for vector in vectors..2 * tiles.lines {
                    L::splat(0.0).store_bf16(target.wrapping_add(at(vector)).cast());
                }
            }
            Kind::Int8 => {
                let mut ends = [L::splat(0.0); 2];
                for vector in 0..vectors {
                    let value = value(vector);
                    ends = [ends[0].max(value), ends[1].min(value)];
                }
                let zero = L::splat(0.0);
                let largest = ends[0].max(zero.sub(ends[1])).highest();
                *tiles.scales.wrapping_add(row) = largest / 127.0;
                let flipped = tiles.set.flipped_bits();
                let steps = L::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
                for vector in 0..vectors {
                    let at = vector / 4 * TILE + vector % 4 * (LINE / 4);
                    value(vector)
                        .mul(steps)
                        .store_i8(target.wrapping_add(at), flipped);
                }
            }
        }
    }
}
