//! A linear layer: rows in, rows out.

use std::sync::Arc;

use burn::nn::Linear;
use burn::prelude::*;

use super::cpu::Instructions;
use super::epilogue::Floats;
use super::inputs::{Source, Tiles, write};
use super::layout::{Kind, LINE, Left, Rows, TILE};
use super::memory::{Memory, with_memory};
use super::pack::Packed;
use super::product::{Epilogue, Product, Scales, multiply};
use super::tensors::tensor;
use crate::Precision;
use crate::kernels::flex::floats;
use crate::kernels::flex::parallel;

/// The rows of a left factor that stay in the level 2 cache while all panels pass by, in bytes.
const CHUNK: usize = 1 << 20;
/// Rows that a task writes.
const ROWS: usize = 32;

/// A prepacked linear layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub set: Instructions,
    pub packed: Packed,
}

impl Layer {
    /// None where the values are not here.
    pub fn new(set: Instructions, kind: Kind, layer: &Linear) -> Option<Self> {
        let weight = floats(layer.weight.val())?;
        let bias = floats(layer.bias.as_ref()?.val())?;
        let packed = Packed::new(kind, weight.as_slice()?, bias.as_slice()?);
        Some(Self { set, packed })
    }

    pub fn columns(&self) -> usize {
        self.packed.columns
    }

    /// The rows, written into `memory` as this layer's left factor; `scales` is for integers.
    ///
    /// # Safety
    ///
    /// The source has so many rows of as many values as the layer has inputs.
    pub unsafe fn input(
        &self,
        source: Source<'_>,
        count: usize,
        memory: &mut super::layout::Lines,
        scales: &mut Vec<f32>,
    ) -> Left {
        let (kind, lines) = (self.packed.kind, self.packed.lines());
        let rows = Rows::new(count);
        memory.hold(rows.tiles * lines * TILE);
        if kind == Kind::Int8 {
            scales.resize(count, 0.0);
        }
        let columns = self.packed.depth;
        let tiles = Tiles {
            set: self.set,
            kind,
            start: memory.start_mut(),
            rows,
            lines,
            scales: scales.as_mut_ptr(),
        };
        parallel(count.div_ceil(ROWS), 16 * count * columns, |task| {
            let rows = task * ROWS..count.min((task + 1) * ROWS);
            // SAFETY: the instructions are there, and no other task has these rows.
            unsafe { write(source, columns, rows, tiles) };
        });
        Left::tiled(memory.start(), rows, lines)
    }

    /// The product; each value goes to the epilogue once.
    ///
    /// # Safety
    ///
    /// The left factor has the layer's inputs, and where the layer's weights are integers a scale for each row; the
    /// epilogue's target has the rows and columns.
    pub unsafe fn multiply(&self, left: Left, scales: &[f32], epilogue: &impl Epilogue) {
        let packed = &self.packed;
        let product = Product {
            kind: packed.kind,
            left,
            panels: packed.panels(),
            bias: packed.bias(),
            shifts: packed.shifts(),
            scales: match packed.kind {
                Kind::Bf16 => Scales::Floats,
                Kind::Int8 => Scales::Integers {
                    rows: scales.as_ptr(),
                    columns: packed.scales(),
                },
            },
        };
        let (panels, tiles) = (packed.panel_count(), left.rows.tiles);
        let chunk = (CHUNK / (left.rows.height * left.lines * LINE)).max(2) & !1;
        // A single tile goes with the chunk before it.
        let chunks = (tiles.saturating_sub(1)).div_ceil(chunk).max(1);
        let work = 2 * left.rows.count * packed.depth * packed.columns / self.set.faster();
        let groups = match rayon::current_num_threads() {
            1 => 1,
            threads => panels.min(4 * threads),
        };
        parallel(chunks * groups, work, |task| {
            let (index, group) = (task / groups, task % groups);
            let end = if index + 1 == chunks {
                tiles
            } else {
                (index + 1) * chunk
            };
            let cut = |group: usize| group * panels / groups;
            let panels = cut(group)..cut(group + 1);
            // SAFETY: the caller's promise; no other task has these rows and columns.
            unsafe { multiply(self.set, &product, panels, index * chunk..end, epilogue) };
        });
    }
}

/// A linear layer on its own.
#[derive(Clone, Debug)]
pub(crate) struct ShortLinear(Arc<Layer>);

impl ShortLinear {
    /// None where precision, CPU or shapes are not for it.
    pub fn new(layer: &Linear, precision: Precision) -> Option<Self> {
        let (set, kind) = Instructions::for_precision(precision)?;
        let [inputs, outputs] = layer.weight.dims();
        if inputs % 16 != 0 || outputs % 16 != 0 {
            return None;
        }
        Some(Self(Arc::new(Layer::new(set, kind, layer)?)))
    }

    /// `[rows, inputs]` to `[rows, outputs]`. None where the rows are not here.
    pub fn forward(&self, input: &Tensor<2>) -> Option<Tensor<2>> {
        let [rows, _] = input.dims();
        let input = floats(input.clone())?;
        let input = input.as_slice::<f32>()?;
        let columns = self.0.columns();
        let mut output = Vec::with_capacity(rows * columns);
        with_memory(
            |Memory {
                 input: tiles,
                 scales,
                 ..
             }| {
                let target = Floats {
                    target: output.as_mut_ptr(),
                    stride: columns,
                    columns,
                };
                // SAFETY: input and output have the rows.
                unsafe {
                    let left = self
                        .0
                        .input(Source::Floats(input.as_ptr()), rows, tiles, scales);
                    self.0.multiply(left, scales, &target);
                }
            },
        );
        // SAFETY: the product has written each value.
        unsafe { output.set_len(rows * columns) };
        Some(tensor(output, [rows, columns]))
    }
}
