//! Products of training: both factors are 32-bit floats, and are rounded to bfloat16 on their way into each product; sums
//! are 32-bit floats.

use std::cell::Cell;
use std::ptr;

use super::cpu::Instructions;
use super::epilogue::{Add, Floats};
use super::inputs::{Source, Tiles, write};
use super::lanes::LANES;
use super::layout::{Kind, LINE, Left, Lines, PANEL, Rows, TILE};
use super::memory::with_memory;
use super::pairs::{write_panel, write_tiles};
use super::product::{Product, Scales, multiply};
use crate::kernels::flex::{Matrix, parallel};

/// Rows that a task multiplies: what it has of the left factor stays in the level 2 cache.
const ROWS: usize = 256;
/// Values of a sum that are multiplied at once where it is long: a panel of so many stays in the level 1 cache.
const DEPTH: usize = 512;
/// About how many times as fast as with 32-bit floats products are.
const FASTER: usize = 8;

const KIND: Kind = Kind::Bf16;

/// Instructions for such products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounded(Instructions);

/// Factors that are packed for all tasks. Each thread keeps its own, so that their pages stay warm.
#[derive(Default)]
struct Factors {
    left: Lines,
    right: Lines,
}

thread_local! {
    static FACTORS: Cell<Option<Box<Factors>>> = const { Cell::new(None) };
}

/// A pointer that tasks write through, each its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: a pointer; what is done through it is in the hands of those who use it.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

impl Rounded {
    /// For layers of these inputs and outputs. None where the CPU has no instructions for it, or a layer is not
    /// a whole number of vectors wide.
    pub fn new(inputs: usize, outputs: usize) -> Option<Self> {
        let set = Instructions::best().filter(|set| set.has_bf16())?;
        let fits = inputs.is_multiple_of(LANES) && outputs.is_multiple_of(LANES);
        fits.then_some(Self(set))
    }

    /// The product of `left`, `[rows, depth]`, and `right`, `[depth, columns]`, with `bias` added to each row. As soon as rows are
    /// there, `then` is called with the first and their number.
    ///
    /// # Safety
    ///
    /// `left` is contiguous, one axis of `right` is; the target has the rows, and nobody else uses it meanwhile.
    pub unsafe fn product(
        self,
        left: Matrix<'_>,
        right: Matrix<'_>,
        bias: Option<&[f32]>,
        target: *mut f32,
        then: impl Fn(usize, usize) + Sync,
    ) {
        let (rows, depth, columns) = (left.rows, left.columns, right.columns);
        let panels = columns.div_ceil(PANEL);
        let bias: Option<Vec<f32>> = bias.map(|bias| {
            let mut bias = bias.to_vec();
            bias.resize(panels * PANEL, 0.0);
            bias
        });
        let target = Shared(target);
        let mut factors = FACTORS.take().unwrap_or_default();
        self.pack_right(right, &mut factors.right);
        let tasks = rows.div_ceil(ROWS);
        parallel(tasks, 2 * rows * depth * columns / FASTER, |task| {
            let first = task * ROWS;
            let count = ROWS.min(rows - first);
            let lines = KIND.lines(depth);
            with_memory(|memory| {
                let tiles = Rows::new(count);
                memory.input.hold(tiles.tiles * lines * TILE);
                let source = Source::Floats(left.values[first * depth..].as_ptr());
                let input = Tiles {
                    set: self.0,
                    kind: KIND,
                    start: memory.input.start_mut(),
                    rows: tiles,
                    lines,
                    scales: ptr::null_mut(),
                };
                let product = Product {
                    kind: KIND,
                    left: Left::tiled(memory.input.start(), tiles, lines),
                    panels: factors.right.start(),
                    bias: bias.as_ref().map_or(ptr::null(), |bias| bias.as_ptr()),
                    shifts: ptr::null(),
                    scales: match bias {
                        Some(_) => Scales::Floats,
                        None => Scales::Sums,
                    },
                };
                let target = Floats {
                    target: target.at(first * columns),
                    stride: columns,
                    columns,
                };
                // SAFETY: the instructions are there; no other task has these rows.
                unsafe {
                    write(source, depth, 0..count, input);
                    multiply(self.0, &product, 0..panels, 0..tiles.tiles, &target);
                }
            });
            then(first, count);
        });
        FACTORS.set(Some(factors));
    }

    /// The product of `left`, `[rows, depth]`, and `right`, `[depth, columns]`, where the depth is great, and `left` lies column
    /// by column.
    ///
    /// # Safety
    ///
    /// `right` and the columns of `left` are contiguous; the target has the rows, and nobody else uses it meanwhile.
    pub unsafe fn long_product(self, left: Matrix<'_>, right: Matrix<'_>, target: *mut f32) {
        let (rows, columns) = (left.rows, right.columns);
        let tiles = Rows::new(rows);
        let panels = columns.div_ceil(PANEL);
        let target = Shared(target);
        let mut factors = FACTORS.take().unwrap_or_default();
        for first in (0..right.rows).step_by(DEPTH) {
            let depth = DEPTH.min(right.rows - first);
            let (left, right) = (
                left.block(0, rows, first, depth),
                right.block(first, depth, 0, columns),
            );
            let lines = KIND.lines(depth);
            self.pack_right(right, &mut factors.right);
            factors.left.hold(tiles.tiles * lines * TILE);
            let start = Shared(factors.left.start_mut());
            parallel(tiles.tiles, 8 * rows * depth, |tile| {
                // SAFETY: the instructions are there; no other task has this row of tiles.
                unsafe { write_tiles(left, tile, start.at(tile * lines * TILE)) };
            });
            let product = Product {
                kind: KIND,
                left: Left::tiled(factors.left.start(), tiles, lines),
                panels: factors.right.start(),
                bias: ptr::null(),
                shifts: ptr::null(),
                scales: Scales::Sums,
            };
            let work = 2 * rows * depth * columns / FASTER;
            parallel(panels, work, |panel| {
                let (set, panels, tiles) = (self.0, panel..panel + 1, 0..tiles.tiles);
                // SAFETY: as above; no other task has these columns, which are written before they are added to.
                unsafe {
                    if first == 0 {
                        let target = Floats {
                            target: target.at(0),
                            stride: columns,
                            columns,
                        };
                        multiply(set, &product, panels, tiles, &target);
                    } else {
                        let target = Add {
                            residual: target.at(0),
                            target: target.at(0),
                            columns,
                        };
                        multiply(set, &product, panels, tiles, &target);
                    }
                }
            });
        }
        FACTORS.set(Some(factors));
    }

    fn pack_right(self, right: Matrix<'_>, memory: &mut Lines) {
        let (panels, size) = (
            right.columns.div_ceil(PANEL),
            KIND.lines(right.rows) * 2 * TILE,
        );
        memory.hold(panels * size + LINE);
        let start = Shared(memory.start_mut());
        parallel(panels, 8 * right.rows * right.columns, |panel| {
            // SAFETY: the instructions are there; no other task has this panel.
            unsafe { write_panel(right, panel, start.at(panel * size)) };
        });
    }
}
