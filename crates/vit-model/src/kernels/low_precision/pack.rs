//! Weights, laid out once.

use super::layout::{Kind, LINE, Lines, PANEL, TALLEST, TILE};

/// A linear layer's weight and bias, for inference.
pub(super) struct Packed {
    pub kind: Kind,
    pub depth: usize,
    pub columns: usize,
    panels: Lines,
    bias: Vec<f32>,
    /// What each column's integers are multiplied by; empty for floats.
    scales: Vec<f32>,
    /// What each column's sum starts from, where 128 is added to the values that its integers are multiplied by; empty for
    /// floats.
    shifts: Vec<i32>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed")
            .field("kind", &self.kind)
            .field("depth", &self.depth)
            .field("columns", &self.columns)
            .finish()
    }
}

impl Packed {
    /// `weight` is `[depth, columns]`. Integers go from -127 to 127; the largest value of each column becomes one of them.
    pub fn new(kind: Kind, weight: &[f32], bias: &[f32]) -> Self {
        let columns = bias.len();
        let depth = weight.len() / columns;
        let panels = columns.div_ceil(PANEL);
        let lines = kind.lines(depth);
        let mut bias = bias.to_vec();
        bias.resize(panels * PANEL, 0.0);
        let mut memory = Lines::zeroed(panels * lines * 2 * TILE);
        let integers = match kind {
            Kind::Bf16 => 0,
            Kind::Int8 => panels * PANEL,
        };
        let mut scales = vec![0.0_f32; integers];
        let mut shifts = vec![0; integers];
        if kind == Kind::Int8 {
            for row in weight.chunks_exact(columns) {
                for (scale, value) in scales.iter_mut().zip(row) {
                    *scale = scale.max(value.abs());
                }
            }
            scales.iter_mut().for_each(|scale| *scale /= 127.0);
        }
        let group = 4 / kind.size();
        let per_line = LINE / kind.size();
        let bytes = panels * lines * 2 * TILE;
        // SAFETY: the memory has so many bytes, and is ours.
        let target = unsafe { std::slice::from_raw_parts_mut(memory.start_mut(), bytes) };
        for (row, values) in weight.chunks_exact(columns).enumerate() {
            let (line, rest) = (row / per_line, row % per_line);
            let (four, inside) = (rest / group, rest % group);
            for (column, &value) in values.iter().enumerate() {
                let (panel, rest) = (column / PANEL, column % PANEL);
                let (half, lane) = (rest / TALLEST, rest % TALLEST);
                let at = ((panel * lines + line) * 2 + half) * TILE
                    + four * LINE
                    + lane * 4
                    + inside * kind.size();
                match kind {
                    Kind::Bf16 => {
                        target[at..at + 2].copy_from_slice(&round_bf16(value).to_le_bytes())
                    }
                    Kind::Int8 => {
                        let scale = scales[column];
                        let step = if scale > 0.0 {
                            (value / scale).round_ties_even()
                        } else {
                            0.0
                        };
                        let step = step.clamp(-127.0, 127.0) as i8;
                        target[at] = step as u8;
                        shifts[column] -= 128 * i32::from(step);
                    }
                }
            }
        }
        Self {
            kind,
            depth,
            columns,
            panels: memory,
            bias,
            scales,
            shifts,
        }
    }

    pub fn lines(&self) -> usize {
        self.kind.lines(self.depth)
    }
    pub fn panel_count(&self) -> usize {
        self.columns.div_ceil(PANEL)
    }
    pub fn panels(&self) -> *const u8 {
        self.panels.start()
    }
    pub fn bias(&self) -> *const f32 {
        self.bias.as_ptr()
    }
    pub fn scales(&self) -> *const f32 {
        self.scales.as_ptr()
    }
    pub fn shifts(&self) -> *const i32 {
        self.shifts.as_ptr()
    }
}

/// The nearest bfloat16, ties to even.
pub(super) fn round_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
