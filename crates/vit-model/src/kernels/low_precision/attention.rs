//! Attention of one head of one sequence, in bfloat16 with 32-bit sums.

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::cpu::Instructions;
use super::epilogue::Floats;
use super::lanes::{LANES, Lanes, Wide};
use super::layout::{Kind, LINE, Left, Lines, PANEL, Rows, TILE};
use super::product::{Epilogue, Place, Product, Scales, multiply};

/// What all heads of all sequences share.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    /// What multiplies bfloat16.
    pub set: Instructions,
    /// Queries, keys and values, `[rows, 3 * hidden]`, bfloat16; the sixteen rows after the last may be read.
    pub qkv: *const u16,
    /// `[rows, hidden]`, bfloat16.
    pub output: *mut u16,
    pub hidden: usize,
    /// Width of a head, a multiple of sixteen.
    pub width: usize,
    /// What is added to the scores of each row as a key.
    pub bias: Option<&'a [f32]>,
}

// SAFETY: pointers; what is done through them is in the hands of those who use them.
unsafe impl Sync for Heads<'_> {}

/// Memory that each thread keeps.
#[derive(Default)]
struct Scratch {
    keys: Lines,
    values: Lines,
    scores: Vec<f32>,
    weights: Lines,
    /// What is added to each key's score, in powers of two.
    bias: Vec<f32>,
    /// One over each softmax's denominator.
    shares: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Attends to `tokens` rows from `start` on, in one head.
///
/// # Safety
///
/// The instructions are there; the rows are, and nobody else uses the head's output.
pub(super) unsafe fn attend(heads: &Heads<'_>, start: usize, tokens: usize, head: usize) {
    SCRATCH.with_borrow_mut(|scratch| {
        // SAFETY: the caller's promise.
        unsafe { attend_with(heads, start, tokens, head, scratch) }
    });
}

unsafe fn attend_with(
    heads: &Heads<'_>,
    start: usize,
    tokens: usize,
    head: usize,
    scratch: &mut Scratch,
) {
    let &Heads { hidden, width, .. } = heads;
    let rows = Rows::new(tokens);
    let key_panels = tokens.div_ceil(PANEL);
    let padded = key_panels * PANEL;
    let (width_lines, width_panels) = (Kind::Bf16.lines(width), width.div_ceil(PANEL));
    let column = head * width;
    let query = heads.qkv.wrapping_add(start * 3 * hidden + column);
    let (key, value) = (query.wrapping_add(hidden), query.wrapping_add(2 * hidden));

    scratch.keys.hold(key_panels * width_lines * 2 * TILE);
    scratch.values.hold(width_panels * key_panels * 2 * TILE);
    scratch.weights.hold(rows.tiles * key_panels * TILE);
    scratch.scores.resize(tokens * padded + LANES, 0.0);
    scratch.shares.resize(tokens, 0.0);
    scratch.bias.clear();
    match heads.bias {
        Some(bias) => {
            let bias = bias[start..start + tokens].iter();
            scratch
                .bias
                .extend(bias.map(|bias| bias * std::f32::consts::LOG2_E));
        }
        None => scratch.bias.resize(tokens, 0.0),
    }
    scratch.bias.resize(padded, f32::NEG_INFINITY);

    // SAFETY: the caller's promise; the scratch has the sizes.
    unsafe {
        pack_keys(key, 3 * hidden, tokens, width, scratch.keys.start_mut());
        pack_values(value, 3 * hidden, tokens, width, scratch.values.start_mut());
        let product = Product {
            kind: Kind::Bf16,
            left: Left::plain(query.cast(), rows, width_lines, 6 * hidden),
            panels: scratch.keys.start(),
            bias: std::ptr::null(),
            shifts: std::ptr::null(),
            scales: Scales::Sums,
        };
        let target = Floats {
            target: scratch.scores.as_mut_ptr(),
            stride: padded,
            columns: padded,
        };
        multiply_all(heads.set, &product, key_panels, &target);
        let scale = (width as f32).sqrt().recip() * std::f32::consts::LOG2_E;
        softmax(scratch, rows, padded, scale);
        let product = Product {
            kind: Kind::Bf16,
            left: Left::tiled(scratch.weights.start(), rows, key_panels),
            panels: scratch.values.start(),
            bias: std::ptr::null(),
            shifts: std::ptr::null(),
            scales: Scales::Sums,
        };
        let target = Shared {
            target: heads.output.wrapping_add(start * hidden + column),
            stride: hidden,
            columns: width,
            shares: scratch.shares.as_ptr(),
        };
        multiply_all(heads.set, &product, width_panels, &target);
    }
}

unsafe fn multiply_all(
    set: Instructions,
    product: &Product,
    panels: usize,
    epilogue: &impl Epilogue,
) {
    let tiles = product.left.rows.tiles;
    // SAFETY: the caller's promise.
    unsafe { multiply(set, product, 0..panels, 0..tiles, epilogue) }
}

/// Keys as the right factor: sixteen by sixteen pairs of values, columns as rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_keys(keys: *const u16, stride: usize, tokens: usize, width: usize, target: *mut u8) {
    let lines = Kind::Bf16.lines(width);
    for group in 0..tokens.div_ceil(PANEL) * 2 {
        let (panel, half) = (group / 2, group % 2);
        for line in 0..lines {
            let pairs = (width - line * 32).min(32) / 2;
            let mask = ((1_u32 << pairs) - 1) as u16;
            let mut rows = [_mm512_setzero_si512(); 16];
            for (index, row) in rows.iter_mut().enumerate() {
                let token = group * 16 + index;
                if token < tokens {
                    let start = keys.wrapping_add(token * stride + line * 32);
                    // SAFETY: the row is there, and masked beyond the head.
                    *row = unsafe { _mm512_maskz_loadu_epi32(mask, start.cast()) };
                }
            }
            let target = target.wrapping_add(((panel * lines + line) * 2 + half) * TILE);
            for (index, column) in transposed(rows).into_iter().enumerate() {
                // SAFETY: the panel is there.
                unsafe { _mm512_storeu_si512(target.wrapping_add(index * LINE).cast(), column) };
            }
        }
    }
}

/// Sixteen rows of sixteen, as columns.
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = rows;
    for i in (0..16).step_by(2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    let mut b = a;
    for i in (0..16).step_by(4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    let mut c = b;
    for i in 0..4 {
        c[i] = _mm512_shuffle_i32x4::<0x88>(b[i], b[i + 4]);
        c[i + 4] = _mm512_shuffle_i32x4::<0xdd>(b[i], b[i + 4]);
        c[i + 8] = _mm512_shuffle_i32x4::<0x88>(b[i + 8], b[i + 12]);
        c[i + 12] = _mm512_shuffle_i32x4::<0xdd>(b[i + 8], b[i + 12]);
    }
    let mut d = c;
    for i in 0..4 {
        d[i] = _mm512_shuffle_i32x4::<0x88>(c[i], c[i + 8]);
        d[i + 4] = _mm512_shuffle_i32x4::<0x88>(c[i + 4], c[i + 12]);
        d[i + 8] = _mm512_shuffle_i32x4::<0xdd>(c[i], c[i + 8]);
        d[i + 12] = _mm512_shuffle_i32x4::<0xdd>(c[i + 4], c[i + 12]);
    }
    d
}

/// Values as the right factor: pairs of rows, value by value.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_values(
    values: *const u16,
    stride: usize,
    tokens: usize,
    width: usize,
    target: *mut u8,
) {
    let lines = tokens.div_ceil(PANEL);
    for pair in 0..lines * 16 {
        let row = |token: usize, column: usize| {
            if token < tokens {
                let start = values.wrapping_add(token * stride + column);
                // SAFETY: the row is there, and a head's width a multiple of sixteen.
                unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(start.cast())) }
            } else {
                _mm512_setzero_si512()
            }
        };
        let (line, within) = (pair / 16, pair % 16);
        for column in (0..width).step_by(16) {
            let (panel, half) = (column / PANEL, column / 16 % 2);
            let upper = _mm512_slli_epi32::<16>(row(2 * pair + 1, column));
            let both = _mm512_or_si512(row(2 * pair, column), upper);
            let at = ((panel * lines + line) * 2 + half) * TILE + within * LINE;
            // SAFETY: the panel is there.
            unsafe { _mm512_storeu_si512(target.wrapping_add(at).cast(), both) };
        }
    }
}

/// `2^x` for `x` up to 0, to a relative error of 5e-6, far below what bfloat16 rounds.
#[inline(always)]
unsafe fn power_of_two<L: Lanes>(x: L) -> L {
    const TERMS: [f32; 5] = [
        9.670_371e-3,
        5.550_327e-2,
        2.402_235_8e-1,
        6.931_472e-1,
        1.0,
    ];
    // SAFETY: the caller's promise.
    unsafe {
        let whole = x.round();
        let rest = x.sub(whole);
        let mut sum = L::splat(TERMS[0]);
        for term in &TERMS[1..] {
            sum = sum.mul_add(rest, L::splat(*term));
        }
        sum.scaled(whole)
    }
}

/// Turns scores into weights, yet to be divided by their sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn softmax(scratch: &mut Scratch, rows: Rows, padded: usize, scale: f32) {
    let vectors = padded / LANES;
    let lines = padded / PANEL;
    let target = scratch.weights.start_mut();
    let bias = scratch.bias.as_ptr();
    let (mut tile, mut within) = (0, 0);
    for row in 0..rows.count {
        let scores = scratch.scores.as_mut_ptr().wrapping_add(row * padded);
        let target = target.wrapping_add(tile * lines * TILE + within * LINE);
        // SAFETY: the row is there.
        unsafe {
            let scale = Wide::splat(scale);
            let mut highest = Wide::splat(f32::NEG_INFINITY);
            for vector in 0..vectors {
                let at = scores.wrapping_add(vector * LANES);
                let bias = Wide::load(bias.wrapping_add(vector * LANES));
                let score = Wide::load(at).mul_add(scale, bias);
                score.store(at);
                highest = highest.max(score);
            }
            let highest = Wide::splat(highest.highest());
            let mut sum = Wide::splat(0.0);
            for vector in 0..vectors {
                let weight =
                    power_of_two(Wide::load(scores.wrapping_add(vector * LANES)).sub(highest));
                sum = sum.add(weight);
                let at = vector / 2 * TILE + vector % 2 * (LINE / 2);
                weight.store_bf16(target.wrapping_add(at).cast());
            }
            scratch.shares[row] = sum.sum().recip();
        }
        within += 1;
        if within == rows.height {
            (tile, within) = (tile + 1, 0);
        }
    }
}

/// bfloat16 rows, each divided by its softmax's denominator.
struct Shared {
    target: *mut u16,
    stride: usize,
    columns: usize,
    shares: *const f32,
}

// SAFETY: pointers; what is done through them is in the hands of those who use them.
unsafe impl Sync for Shared {}

impl Epilogue for Shared {
    #[inline(always)]
    unsafe fn row<L: Lanes>(&self, place: Place, values: [L; 2]) {
        let column = place.panel * PANEL;
        let target = self.target.wrapping_add(place.row * self.stride + column);
        // SAFETY: the caller's promise.
        unsafe {
            let share = L::splat(*self.shares.wrapping_add(place.row));
            values[0].mul(share).store_bf16(target);
            if column + LANES < self.columns {
                values[1].mul(share).store_bf16(target.wrapping_add(LANES));
            }
        }
    }
}
