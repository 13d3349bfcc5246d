use burn::prelude::*;

/// Tokens as unit vectors: their keys, averaged over the heads (Bolya et al., "Token Merging", 2023,
/// section 3). The likeness of two is their product.
pub(crate) struct Similarity {
    vectors: Vec<f32>,
    width: usize,
}

/// Sums that run side by side.
const LANES: usize = 8;

impl Similarity {
    /// `keys` is `[rows, hidden]`, heads side by side.
    pub fn of(keys: &Tensor<2>, num_heads: usize) -> Self {
        let [rows, hidden] = keys.dims();
        let width = hidden / num_heads;
        let keys = keys.clone().reshape([rows, num_heads, width]);
        let vectors: Vec<f32> = keys.mean_dim(1).into_data().iter::<f32>().collect();
        Self::new(vectors, width)
    }

    pub fn new(mut vectors: Vec<f32>, width: usize) -> Self {
        for vector in vectors.chunks_exact_mut(width) {
            let norm = product(vector, vector).sqrt().max(1e-12);
            vector.iter_mut().for_each(|value| *value /= norm);
        }
        Self { vectors, width }
    }

    fn vector(&self, row: usize) -> &[f32] {
        &self.vectors[row * self.width..(row + 1) * self.width]
    }

    /// The row of `among` that is most like `row`, and how like: the first of equals.
    pub fn nearest(&self, row: usize, among: &[usize]) -> Option<(f32, usize)> {
        let own = self.vector(row);
        let others = among.iter().filter(|&&other| other != row);
        let likeness = others.map(|&other| (product(own, self.vector(other)), other));
        likeness.reduce(|best, next| if next.0 > best.0 { next } else { best })
    }
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail = whole.remainder().iter().zip(rest.remainder());
    let tail: f32 = tail.map(|(a, b)| a * b).sum();
    for (a, b) in whole.zip(rest) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}
