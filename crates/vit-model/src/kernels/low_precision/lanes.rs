//! Sixteen 32-bit floats at once, for each instruction set that has kernels.
// Each method is as safe as the trait says.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

/// Values in one.
pub(super) const LANES: usize = 16;

/// Sixteen floats. Its methods are compiled with the features of the function that they are inlined into.
///
/// # Safety
///
/// Of each method: the CPU has the instructions, and pointers are good for sixteen values.
pub(super) trait Lanes: Copy {
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(start: *const f32) -> Self;
    unsafe fn store(self, start: *mut f32);
    /// From 32-bit integers.
    unsafe fn load_ints(start: *const i32) -> Self;
    /// From bfloat16.
    unsafe fn load_bf16(start: *const u16) -> Self;
    /// As bfloat16, rounded to the nearest, ties to even.
    unsafe fn store_bf16(self, start: *mut u16);
    /// As 8-bit integers, rounded to the nearest, ties to even; the values fit. Bits of `flipped` are flipped.
    unsafe fn store_i8(self, start: *mut u8, flipped: u8);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + term`
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    /// Rounded to an integer.
    unsafe fn round(self) -> Self;
    /// `self * 2^power`; `power` is an integer.
    unsafe fn scaled(self, power: Self) -> Self;
    /// The sum of the lanes, as a tree.
    unsafe fn sum(self) -> f32;
    /// The largest of the lanes.
    unsafe fn highest(self) -> f32;
}

/// A vector of AVX-512 (F, BW, VL, DQ and BF16).
#[derive(Clone, Copy)]
pub(super) struct Wide(__m512);

impl Lanes for Wide {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(start: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(start) })
    }
    #[inline(always)]
    unsafe fn store(self, start: *mut f32) {
        unsafe { _mm512_storeu_ps(start, self.0) }
    }
    #[inline(always)]
    unsafe fn load_ints(start: *const i32) -> Self {
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(start.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(start: *const u16) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(start.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, start: *mut u16) {
        unsafe {
            let short = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
            _mm256_storeu_si256(start.cast(), short)
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, start: *mut u8, flipped: u8) {
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0));
            let bytes = _mm_xor_si128(bytes, _mm_set1_epi8(flipped as i8));
            _mm_storeu_si128(start.cast(), bytes)
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(unsafe { _mm512_roundscale_ps::<8>(self.0) })
    }
    #[inline(always)]
    unsafe fn scaled(self, power: Self) -> Self {
        Self(unsafe { _mm512_scalef_ps(self.0, power.0) })
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn highest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}

/// Two vectors of AVX2 with FMA.
#[derive(Clone, Copy)]
pub(super) struct Pair([__m256; 2]);

impl Pair {
    #[inline(always)]
    unsafe fn both(self, other: Self, f: impl Fn(__m256, __m256) -> __m256) -> Self {
        Self([f(self.0[0], other.0[0]), f(self.0[1], other.0[1])])
    }
    #[inline(always)]
    unsafe fn halves(self, combine: impl Fn(__m128, __m128) -> __m128) -> f32 {
        unsafe {
            let quarter =
                |v: __m256| combine(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let four = combine(quarter(self.0[0]), quarter(self.0[1]));
            let two = combine(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(combine(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

impl Lanes for Pair {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([unsafe { _mm256_set1_ps(value) }; 2])
    }
    #[inline(always)]
    unsafe fn load(start: *const f32) -> Self {
        Self(unsafe { [_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(8))] })
    }
    #[inline(always)]
    unsafe fn store(self, start: *mut f32) {
        unsafe {
            _mm256_storeu_ps(start, self.0[0]);
            _mm256_storeu_ps(start.add(8), self.0[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_ints(start: *const i32) -> Self {
        let half =
            |start: *const i32| unsafe { _mm256_cvtepi32_ps(_mm256_loadu_si256(start.cast())) };
        Self([half(start), half(start.wrapping_add(8))])
    }
    #[inline(always)]
    unsafe fn load_bf16(start: *const u16) -> Self {
        let half = |start: *const u16| unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(start.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        };
        Self([half(start), half(start.wrapping_add(8))])
    }
    #[inline(always)]
    unsafe fn store_bf16(self, start: *mut u16) {
        unsafe {
            let short = self.0.map(|v| {
                let bits = _mm256_castps_si256(v);
                let even = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let rounded =
                    _mm256_add_epi32(_mm256_add_epi32(bits, even), _mm256_set1_epi32(0x7fff));
                _mm256_srli_epi32::<16>(rounded)
            });
            let packed = _mm256_packus_epi32(short[0], short[1]);
            _mm256_storeu_si256(
                start.cast(),
                _mm256_permute4x64_epi64::<0b11_01_10_00>(packed),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, start: *mut u8, flipped: u8) {
        unsafe {
            let ints = self.0.map(|v| _mm256_cvtps_epi32(v));
            let short =
                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(ints[0], ints[1]));
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(short),
                _mm256_extracti128_si256::<1>(short),
            );
            let bytes = _mm_xor_si128(bytes, _mm_set1_epi8(flipped as i8));
            _mm_storeu_si128(start.cast(), bytes)
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { self.both(other, |a, b| _mm256_add_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { self.both(other, |a, b| _mm256_sub_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { self.both(other, |a, b| _mm256_mul_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        let half = |i: usize| unsafe { _mm256_fmadd_ps(self.0[i], factor.0[i], term.0[i]) };
        Self([half(0), half(1)])
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { self.both(other, |a, b| _mm256_min_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { self.both(other, |a, b| _mm256_max_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(self.0.map(|v| unsafe { _mm256_round_ps::<8>(v) }))
    }
    #[inline(always)]
    unsafe fn scaled(self, power: Self) -> Self {
        unsafe {
            self.both(power, |v, power| {
                let power = _mm256_max_ps(power, _mm256_set1_ps(-127.0));
                let bits = _mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127));
                _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(bits)))
            })
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { self.halves(|a, b| _mm_add_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn highest(self) -> f32 {
        unsafe { self.halves(|a, b| _mm_max_ps(a, b)) }
    }
}
