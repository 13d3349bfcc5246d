use std::sync::Arc;

use burn::prelude::*;
use rayon::prelude::*;

use crate::host::read;

/// Rows that a thread takes at once.
const ROWS: usize = 512;
/// Squares that are summed side by side.
const LANES: usize = 16;

/// Tokens as unit vectors: their keys, averaged over the heads (Bolya et al., "Token Merging", 2023,
/// section 3). The similarity of two is their product.
#[derive(Clone, Debug)]
pub struct Keys {
    vectors: Arc<Vec<f32>>,
    width: usize,
}

impl Keys {
    /// Of `keys`, `[rows, width]`, of any length.
    pub fn new(keys: Tensor<2>) -> Self {
        let [_, width] = keys.dims();
        let mut vectors = read(keys);
        let chunks = vectors.par_chunks_mut(ROWS * width);
        chunks.for_each(|rows| rows.chunks_exact_mut(width).for_each(normalize));
        Self {
            vectors: Arc::new(vectors),
            width,
        }
    }

    /// Those of some rows.
    pub fn of_rows(&self, rows: &[usize]) -> Self {
        let vectors = rows.iter().flat_map(|&row| self.vector(row));
        Self {
            vectors: Arc::new(vectors.copied().collect()),
            width: self.width,
        }
    }

    /// Length of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The unit vector of a row.
    pub fn vector(&self, row: usize) -> &[f32] {
        &self.vectors[row * self.width..(row + 1) * self.width]
    }
}

fn normalize(vector: &mut [f32]) {
    let mut squares = [0.0; LANES];
    for values in vector.chunks(LANES) {
        for (sum, value) in squares.iter_mut().zip(values) {
            *sum += value * value;
        }
    }
    let norm = squares.iter().sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|value| *value /= norm);
}
