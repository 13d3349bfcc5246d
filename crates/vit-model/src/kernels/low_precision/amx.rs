//! The matrix extension, AMX. The language has no functions for it yet, so its instructions are written out.

use std::arch::asm;
use std::sync::LazyLock;

use super::layout::{Kind, Left, PANEL, TALLEST, TILE};

/// Can this process use it? Linux has to be asked for the registers first.
pub(super) static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 7 {
        return false;
    }
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    let all = BF16 | TILE | INT8;
    __cpuid_count(7, 0).edx & all == all && request()
});

#[cfg(target_os = "linux")]
fn request() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the call changes what this process may use, and no memory.
    unsafe {
        asm!("syscall", inlateout("rax") result, in("rdi") REQUEST, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}

#[repr(C, align(64))]
struct Config {
    palette: u8,
    first_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// While it lives, this thread has tiles of so many rows; those of the right factor have sixteen.
pub(super) struct Configured;

impl Configured {
    /// # Safety
    ///
    /// The extension is [`AVAILABLE`], and nothing else on this thread is configured.
    pub unsafe fn new(height: usize) -> Self {
        let mut config = Config {
            palette: 1,
            first_row: 0,
            reserved: [0; 14],
            bytes: [0; 16],
            rows: [0; 16],
        };
        config.bytes[..8].fill(64);
        config.rows[..8].fill(height as u8);
        config.rows[7] = TALLEST as u8;
        // SAFETY: the caller's promise.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack)) };
        Self
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: it is configured.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

macro_rules! pair {
    ($product:literal, $a:expr, $b:expr, $left:expr) => {
        asm!(
            "tileloadd tmm7, [{b} + {line}]",
            "tileloaddt1 tmm4, [{a} + {row}]",
            concat!($product, " tmm0, tmm4, tmm7"),
            "tileloaddt1 tmm5, [{below} + {row}]",
            concat!($product, " tmm2, tmm5, tmm7"),
            "tileloadd tmm7, [{b} + {line} + 1024]",
            concat!($product, " tmm1, tmm4, tmm7"),
            concat!($product, " tmm3, tmm5, tmm7"),
            a = in(reg) $a, below = in(reg) $a.wrapping_add($left.tile_stride), row = in(reg) $left.row_stride,
            b = in(reg) $b, line = in(reg) 64usize, options(nostack, readonly),
        )
    };
}

macro_rules! three {
    ($product:literal, $a:expr, $b:expr, $left:expr) => {
        asm!(
            "tileloadd tmm7, [{b} + {line}]",
            "tileloadd tmm6, [{a} + {row}]",
            concat!($product, " tmm0, tmm6, tmm7"),
            "tileloadd tmm6, [{below} + {row}]",
            concat!($product, " tmm2, tmm6, tmm7"),
            "tileloadd tmm6, [{last} + {row}]",
            concat!($product, " tmm4, tmm6, tmm7"),
            "tileloadd tmm7, [{b} + {line} + 1024]",
            concat!($product, " tmm5, tmm6, tmm7"),
            "tileloadd tmm6, [{below} + {row}]",
            concat!($product, " tmm3, tmm6, tmm7"),
            "tileloadd tmm6, [{a} + {row}]",
            concat!($product, " tmm1, tmm6, tmm7"),
            a = in(reg) $a, below = in(reg) $a.wrapping_add($left.tile_stride),
            last = in(reg) $a.wrapping_add(2 * $left.tile_stride), row = in(reg) $left.row_stride,
            b = in(reg) $b, line = in(reg) 64usize, options(nostack, readonly),
        )
    };
}

macro_rules! single {
    ($product:literal, $a:expr, $b:expr, $left:expr) => {
        asm!(
            "tileloaddt1 tmm4, [{a} + {row}]",
            "tileloadd tmm7, [{b} + {line}]",
            concat!($product, " tmm0, tmm4, tmm7"),
            "tileloadd tmm7, [{b} + {line} + 1024]",
            concat!($product, " tmm1, tmm4, tmm7"),
            a = in(reg) $a, row = in(reg) $left.row_stride,
            b = in(reg) $b, line = in(reg) 64usize, options(nostack, readonly),
        )
    };
}

/// The sums of 1 to 3 tiles of the left factor, from `first` on, with a panel: `[tiles, 16, 32]` to `sums`. `between` is
/// called for each line.
///
/// # Safety
///
/// The factors are there, `sums` may be written, and the thread is [`Configured`] for them.
#[inline(always)]
pub(super) unsafe fn block(
    kind: Kind,
    left: &Left,
    first: usize,
    tiles: usize,
    panel: *const u8,
    sums: *mut u32,
    mut between: impl FnMut(usize),
) {
    let a = left.start.wrapping_add(first * left.tile_stride);
    let at = |line: usize| {
        (
            a.wrapping_add(line * left.line_stride),
            panel.wrapping_add(line * 2 * TILE),
        )
    };
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nostack, nomem)
        );
        if tiles == 3 {
            asm!("tilezero tmm4", "tilezero tmm5", options(nostack, nomem));
        }
        for line in 0..left.lines {
            let (a, b) = at(line);
            match (tiles, kind) {
                (1, Kind::Bf16) => single!("tdpbf16ps", a, b, left),
                (1, Kind::Int8) => single!("tdpbssd", a, b, left),
                (2, Kind::Bf16) => pair!("tdpbf16ps", a, b, left),
                (2, Kind::Int8) => pair!("tdpbssd", a, b, left),
                (_, Kind::Bf16) => three!("tdpbf16ps", a, b, left),
                (_, Kind::Int8) => three!("tdpbssd", a, b, left),
            }
            between(line);
        }
        let stride = 4 * PANEL;
        asm!("tilestored [{sums} + {stride}], tmm0", "tilestored [{sums} + {stride} + 64], tmm1",
            sums = in(reg) sums, stride = in(reg) stride, options(nostack));
        if tiles > 1 {
            asm!("tilestored [{sums} + {stride}], tmm2", "tilestored [{sums} + {stride} + 64], tmm3",
                sums = in(reg) sums.wrapping_add(TALLEST * PANEL), stride = in(reg) stride, options(nostack));
        }
        if tiles > 2 {
            asm!("tilestored [{sums} + {stride}], tmm4", "tilestored [{sums} + {stride} + 64], tmm5",
                sums = in(reg) sums.wrapping_add(2 * TALLEST * PANEL), stride = in(reg) stride, options(nostack));
        }
    }
}
