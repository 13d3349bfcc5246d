//! Products of rows and a packed weight. What comes after is done to each row of a block's sums while the next block is
//! multiplied: the matrix extension computes beside the vectors.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::mem::MaybeUninit;
use std::ops::Range;

use super::cpu::Instructions;
use super::lanes::{LANES, Lanes, Pair, Wide};
use super::layout::{Kind, LINE, Left, PANEL, Panel, TALLEST, TILE};
use super::{amx, avx2, avx512};

/// Tiles of the left factor that are multiplied at once, at most.
const MOST: usize = 3;

/// A row of a block's sums.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    pub row: usize,
    /// The tile that the row stands in, and where.
    pub tile: usize,
    pub within: usize,
    pub panel: usize,
}

/// What is done to the values of a product.
pub(super) trait Epilogue: Sync {
    /// Takes a row of a panel.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions of `L`; nobody else has the place.
    unsafe fn row<L: Lanes>(&self, place: Place, values: [L; 2]);
}

/// How sums become values.
#[derive(Clone, Copy)]
pub(super) enum Scales {
    /// They are, and there is no bias.
    Sums,
    /// They are.
    Floats,
    /// Integers, times a factor for their row and one for their column.
    Integers {
        rows: *const f32,
        columns: *const f32,
    },
}

/// What is multiplied.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub kind: Kind,
    pub left: Left,
    /// The right factor's panels.
    pub panels: *const u8,
    /// Added to each row, as many as the panels have columns.
    pub bias: *const f32,
    /// What the sums of integers start from, where the left factor's bits are flipped ([`Instructions::flipped_bits`]).
    pub shifts: *const i32,
    pub scales: Scales,
}

// SAFETY: pointers; what is done through them is in the hands of those who use them.
unsafe impl Sync for Product {}

impl Product {
    /// A panel of the right factor.
    #[inline(always)]
    fn panel(&self, index: usize) -> Panel {
        Panel {
            start: self.panels.wrapping_add(index * self.left.lines * 2 * TILE),
            shifts: self.shifts.wrapping_add(index * PANEL),
        }
    }

    /// The values of sixteen sums, of a row from a column on.
    #[inline(always)]
    unsafe fn value<L: Lanes>(&self, sums: *const u32, row: usize, column: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            match self.scales {
                Scales::Sums => L::load(sums.cast()),
                Scales::Floats => L::load(sums.cast()).add(L::load(self.bias.wrapping_add(column))),
                Scales::Integers { rows, columns } => {
                    let scale = L::splat(*rows.wrapping_add(row))
                        .mul(L::load(columns.wrapping_add(column)));
                    L::load_ints(sums.cast())
                        .mul_add(scale, L::load(self.bias.wrapping_add(column)))
                }
            }
        }
    }
}

trait Block {
    type L: Lanes;
    unsafe fn block(
        product: &Product,
        first: usize,
        tiles: usize,
        panel: Panel,
        sums: *mut u32,
        between: impl FnMut(usize),
    );
}

struct Amx;
impl Block for Amx {
    type L = Wide;
    #[inline(always)]
    unsafe fn block(
        p: &Product,
        first: usize,
        tiles: usize,
        panel: Panel,
        sums: *mut u32,
        between: impl FnMut(usize),
    ) {
        // SAFETY: the caller's promise.
        unsafe { amx::block(p.kind, &p.left, first, tiles, panel.start, sums, between) }
    }
}
struct Avx512;
impl Block for Avx512 {
    type L = Wide;
    #[inline(always)]
    unsafe fn block(
        p: &Product,
        first: usize,
        tiles: usize,
        panel: Panel,
        sums: *mut u32,
        between: impl FnMut(usize),
    ) {
        // SAFETY: the caller's promise.
        unsafe { avx512::block(p.kind, &p.left, first, tiles, panel, sums, between) }
    }
}
struct Avx2<const VNNI: bool>;
impl<const VNNI: bool> Block for Avx2<VNNI> {
    type L = Pair;
    #[inline(always)]
    unsafe fn block(
        p: &Product,
        first: usize,
        tiles: usize,
        panel: Panel,
        sums: *mut u32,
        between: impl FnMut(usize),
    ) {
        // SAFETY: the caller's promise.
        unsafe { avx2::block::<VNNI>(&p.left, first, tiles, panel.start, sums, between) }
    }
}

#[repr(C, align(64))]
struct Sums([u32; MOST * TALLEST * PANEL]);

/// A block whose sums are still to be handed on.
#[derive(Clone, Copy)]
struct Pending {
    sums: *const u32,
    place: Place,
    tile_in_block: usize,
    left: usize,
}

impl Pending {
    #[inline(always)]
    unsafe fn take<L: Lanes>(&mut self, rows: usize, product: &Product, epilogue: &impl Epilogue) {
        let height = product.left.rows.height;
        let rows = rows.min(self.left);
        for _ in 0..rows {
            let at = (self.tile_in_block * TALLEST + self.place.within) * PANEL;
            let column = self.place.panel * PANEL;
            let sums = self.sums.wrapping_add(at);
            // SAFETY: the caller's promise.
            unsafe {
                let values = [
                    product.value::<L>(sums, self.place.row, column),
                    product.value::<L>(sums.wrapping_add(LANES), self.place.row, column + LANES),
                ];
                epilogue.row::<L>(self.place, values);
            }
            self.place.row += 1;
            self.place.within += 1;
            if self.place.within == height {
                self.place.within = 0;
                self.place.tile += 1;
                self.tile_in_block += 1;
            }
        }
        self.left -= rows;
    }
}

/// Tiles of the next block: two, or three where one would stay alone.
fn next_tiles(left: usize) -> usize {
    match left {
        1 | 3 => left,
        _ => 2,
    }
}

#[inline(always)]
unsafe fn sweep<B: Block, E: Epilogue>(
    product: &Product,
    panels: Range<usize>,
    tiles: Range<usize>,
    epilogue: &E,
) {
    let left = &product.left;
    let mut memory = [const { MaybeUninit::<Sums>::uninit() }; 2];
    let memory: [*mut u32; 2] = memory.each_mut().map(|sums| sums.as_mut_ptr().cast());
    let mut turn = 0;
    let place = Place::default();
    let mut pending = Pending {
        sums: memory[0],
        place,
        tile_in_block: 0,
        left: 0,
    };
    let blocks = (tiles.len() / 2).max(1);
    let ahead = (2 * TILE / LINE).div_ceil(blocks);
    for panel in panels {
        let mut first = tiles.start;
        let mut next = product.panel(panel + 1).start;
        while first < tiles.end {
            let count = next_tiles(tiles.end - first);
            let sums = memory[turn];
            let rows = pending.left;
            let mut done = 0;
            // SAFETY: the caller's promise.
            unsafe {
                B::block(product, first, count, product.panel(panel), sums, |line| {
                    for _ in 0..ahead {
                        _mm_prefetch::<_MM_HINT_T1>(next.cast());
                        next = next.wrapping_add(LINE);
                    }
                    let until = (line + 1) * rows / left.lines;
                    pending.take::<B::L>(until - done, product, epilogue);
                    done = until;
                });
            }
            let row = first * left.rows.height;
            let end = left.rows.count.min((first + count) * left.rows.height);
            pending = Pending {
                sums,
                place: Place {
                    row,
                    tile: first,
                    within: 0,
                    panel,
                },
                tile_in_block: 0,
                left: end - row,
            };
            turn = 1 - turn;
            first += count;
        }
    }
    // SAFETY: the caller's promise.
    unsafe { pending.take::<B::L>(usize::MAX, product, epilogue) };
}

/// Computes these panels' columns of these tiles' rows on this thread.
///
/// # Safety
///
/// The factors are as large as they say, and in memory where prefetching may run past them; the instructions are there,
/// and nobody else uses what the epilogue writes.
pub(super) unsafe fn multiply<E: Epilogue>(
    set: Instructions,
    product: &Product,
    panels: Range<usize>,
    tiles: Range<usize>,
    epilogue: &E,
) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma")]
    unsafe fn with_amx<E: Epilogue>(
        product: &Product,
        panels: Range<usize>,
        tiles: Range<usize>,
        epilogue: &E,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let _configured = amx::Configured::new(product.left.rows.height);
            sweep::<Amx, E>(product, panels, tiles, epilogue);
        }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma")]
    unsafe fn with_avx512<E: Epilogue>(
        product: &Product,
        panels: Range<usize>,
        tiles: Range<usize>,
        epilogue: &E,
    ) {
        // SAFETY: the caller's promise.
        unsafe { sweep::<Avx512, E>(product, panels, tiles, epilogue) }
    }
    #[target_feature(enable = "avxvnni,avx2,fma")]
    unsafe fn with_vnni<E: Epilogue>(
        product: &Product,
        panels: Range<usize>,
        tiles: Range<usize>,
        epilogue: &E,
    ) {
        // SAFETY: the caller's promise.
        unsafe { sweep::<Avx2<true>, E>(product, panels, tiles, epilogue) }
    }
    #[target_feature(enable = "avx2,fma")]
    unsafe fn with_avx2<E: Epilogue>(
        product: &Product,
        panels: Range<usize>,
        tiles: Range<usize>,
        epilogue: &E,
    ) {
        // SAFETY: the caller's promise.
        unsafe { sweep::<Avx2<false>, E>(product, panels, tiles, epilogue) }
    }
    // SAFETY: the caller's promise.
    unsafe {
        match set {
            Instructions::Amx => with_amx(product, panels, tiles, epilogue),
            Instructions::Avx512 => with_avx512(product, panels, tiles, epilogue),
            Instructions::AvxVnni => with_vnni(product, panels, tiles, epilogue),
            Instructions::Avx2 => with_avx2(product, panels, tiles, epilogue),
        }
    }
}
