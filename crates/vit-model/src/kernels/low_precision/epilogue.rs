//! What is done to a product's values while they are hot.

use super::lanes::{LANES, Lanes};
use super::layout::{LINE, PANEL, TILE};
use super::product::{Epilogue, Place};

/// GELU: `x` times the probability that a normal variable is below `x`. The probability's polynomial, made for this,
/// leaves an absolute error of GELU below 1e-4 for |x| < 8, a fortieth of what bfloat16 rounds at 1.
#[inline(always)]
pub(super) unsafe fn gelu<L: Lanes>(x: L) -> L {
    const TERMS: [f32; 9] = [
        5.998_068e-11,
        -5.633_317_3e-9,
        2.343_674e-7,
        -5.760_769e-6,
        9.457_44e-5,
        -1.114_148e-3,
        9.830_13e-3,
        -6.636_037e-2,
        3.989_074_4e-1,
    ];
    const END: f32 = 4.2;
    // SAFETY: the caller's promise.
    unsafe {
        let bounded = x.min(L::splat(END)).max(L::splat(-END));
        let square = bounded.mul(bounded);
        let mut sum = L::splat(TERMS[0]);
        for term in &TERMS[1..] {
            sum = sum.mul_add(square, L::splat(*term));
        }
        x.mul(bounded.mul_add(sum, L::splat(0.5)))
    }
}

/// bfloat16, rows one below the other; through GELU or not.
pub(super) struct ToRows<const GELU: bool> {
    pub target: *mut u16,
    pub columns: usize,
}

// SAFETY: pointers; what is done through them is in the hands of those who use them.
unsafe impl<const GELU: bool> Sync for ToRows<GELU> {}
impl<const GELU: bool> Epilogue for ToRows<GELU> {
    #[inline(always)]
    unsafe fn row<L: Lanes>(&self, place: Place, values: [L; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            let values = if GELU {
                [gelu(values[0]), gelu(values[1])]
            } else {
                values
            };
            let column = place.panel * PANEL;
            let target = self.target.wrapping_add(place.row * self.columns + column);
            values[0].store_bf16(target);
            if column + LANES < self.columns {
                values[1].store_bf16(target.wrapping_add(LANES));
            }
        }
    }
}

/// bfloat16 through GELU, in the tiles of the next product's left factor.
pub(super) struct GeluTiles {
    pub target: *mut u8,
    /// Lines of a row of it: as many as there are panels.
    pub lines: usize,
}

// SAFETY: pointers; what is done through them is in the hands of those who use them.
unsafe impl Sync for GeluTiles {}
impl Epilogue for GeluTiles {
    #[inline(always)]
    unsafe fn row<L: Lanes>(&self, place: Place, values: [L; 2]) {
        let offset = (place.tile * self.lines + place.panel) * TILE + place.within * LINE;
        let target = self.target.wrapping_add(offset).cast::<u16>();
        // SAFETY: the caller's promise.
        unsafe {
            gelu(values[0]).store_bf16(target);
            gelu(values[1]).store_bf16(target.wrapping_add(LANES));
        }
    }
}

/// Added to 32-bit floats.
pub(super) struct Add {
    pub residual: *const f32,
    pub target: *mut f32,
    pub columns: usize,
}

// SAFETY: pointers; what is done through them is in the hands of those who use them.
unsafe impl Sync for Add {}
impl Epilogue for Add {
    #[inline(always)]
    unsafe fn row<L: Lanes>(&self, place: Place, values: [L; 2]) {
        let column = place.panel * PANEL;
        let at = place.row * self.columns + column;
        let (residual, target) = (self.residual.wrapping_add(at), self.target.wrapping_add(at));
        // SAFETY: the caller's promise.
        unsafe {
            values[0].add(L::load(residual)).store(target);
            if column + LANES < self.columns {
                values[1]
                    .add(L::load(residual.wrapping_add(LANES)))
                    .store(target.wrapping_add(LANES));
            }
        }
    }
}

/// 32-bit floats, as they are; rows `stride` values apart, which is at least as much as the panels have.
pub(super) struct Floats {
    pub target: *mut f32,
    pub stride: usize,
    pub columns: usize,
}

// SAFETY: pointers; what is done through them is in the hands of those who use them.
unsafe impl Sync for Floats {}
impl Epilogue for Floats {
    #[inline(always)]
    unsafe fn row<L: Lanes>(&self, place: Place, values: [L; 2]) {
        let column = place.panel * PANEL;
        let target = self.target.wrapping_add(place.row * self.stride + column);
        // SAFETY: the caller's promise.
        unsafe {
            values[0].store(target);
            if column + LANES < self.columns {
                values[1].store(target.wrapping_add(LANES));
            }
        }
    }
}
