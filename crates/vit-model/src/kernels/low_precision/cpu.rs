//! What the CPU has.

use std::sync::LazyLock;

use super::amx;
use super::layout::Kind;
use crate::Precision;

/// Instructions that products are computed with, the fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Instructions {
    /// The matrix extension: AMX-BF16 and AMX-INT8, with AVX-512 around it.
    Amx,
    /// AVX512-BF16 and AVX512-VNNI.
    Avx512,
    /// AVX-VNNI, with AVX2 around it: integers only.
    AvxVnni,
    /// AVX2 with FMA: integers only.
    Avx2,
}

impl Instructions {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Amx, Self::Avx512, Self::AvxVnni, Self::Avx2];

    /// Its name.
    #[cfg(test)]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "AMX",
            Self::Avx512 => "AVX-512",
            Self::AvxVnni => "AVX-VNNI",
            Self::Avx2 => "AVX2",
        }
    }

    /// Has this CPU got it, and may this process use it?
    pub fn is_there(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = || {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("avx512vnni")
        };
        match self {
            Self::Amx => avx512() && *amx::AVAILABLE,
            Self::Avx512 => avx512(),
            Self::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Self::Avx2 => avx2(),
        }
    }

    /// What multiplies bfloat16, if anything does.
    pub fn for_bf16(self) -> Option<&'static str> {
        match self {
            Self::Amx => Some("AMX-BF16"),
            Self::Avx512 => Some("AVX512-BF16"),
            Self::AvxVnni | Self::Avx2 => None,
        }
    }

    /// What multiplies integers.
    pub fn for_int8(self) -> &'static str {
        match self {
            Self::Amx => "AMX-INT8",
            Self::Avx512 => "AVX512-VNNI",
            Self::AvxVnni => "AVX-VNNI",
            Self::Avx2 => "AVX2",
        }
    }

    /// Does it multiply bfloat16?
    pub fn has_bf16(self) -> bool {
        self.for_bf16().is_some()
    }

    /// Those that products of a precision are computed with, and what their factors are. None where these are 32-bit floats.
    pub(super) fn for_precision(precision: Precision) -> Option<(Self, Kind)> {
        let best = Self::best()?;
        match precision {
            Precision::Bf16 if best.has_bf16() => Some((best, Kind::Bf16)),
            Precision::Int8 => Some((best, Kind::Int8)),
            _ => None,
        }
    }

    /// How many times as fast as with 32-bit floats products are, about.
    pub(super) fn faster(self) -> usize {
        if self == Self::Avx2 { 1 } else { 8 }
    }

    /// Which bits of a left factor's integers are flipped: AVX512-VNNI multiplies values without a sign, so they get 128 more.
    pub(super) fn flipped_bits(self) -> u8 {
        if self == Self::Avx512 { 0x80 } else { 0 }
    }

    /// Does it multiply whole tiles?
    pub fn has_tiles(self) -> bool {
        self == Self::Amx
    }

    /// The fastest of this CPU, if it has any.
    pub fn best() -> Option<Self> {
        static BEST: LazyLock<Option<Instructions>> =
            LazyLock::new(|| Instructions::ALL.into_iter().find(|set| set.is_there()));
        *BEST
    }
}
