use burn::prelude::*;
use rayon::prelude::*;

/// Tokens as unit vectors: their keys, averaged over the heads (Bolya et al., "Token Merging", 2023,
/// section 3). The likeness of two is their product.
pub(crate) struct Similarity {
    vectors: Vec<f32>,
    width: usize,
}

/// The values of a tensor, row by row.
pub(crate) fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec().unwrap_or_default()
}

/// Rows that a thread takes at once.
const ROWS: usize = 512;

fn normalize(vector: &mut [f32]) {
    let squares: f32 = vector.iter().map(|value| value * value).sum();
    let norm = squares.sqrt().max(1e-12);
    vector.iter_mut().for_each(|value| *value /= norm);
}

impl Similarity {
    /// `keys` is `[rows, width]`.
    pub fn of(keys: &Tensor<2>) -> Self {
        let [_, width] = keys.dims();
        let mut vectors: Vec<f32> = floats(keys.clone());
        let chunks = vectors.par_chunks_mut(ROWS * width);
        chunks.for_each(|rows| rows.chunks_exact_mut(width).for_each(normalize));
        Self { vectors, width }
    }

    /// Of rows of `width` values.
    #[cfg(test)]
    pub fn new(mut vectors: Vec<f32>, width: usize) -> Self {
        vectors.chunks_exact_mut(width).for_each(normalize);
        Self { vectors, width }
    }

    /// For each of `rows`, the row of `among` that is most like it, itself excepted, and how like: the first
    /// of equals. None where there is no other.
    pub fn nearest(&self, rows: &[usize], among: &[usize]) -> Vec<Option<(f32, usize)>> {
        // Value by value, so that all products with a row are computed side by side.
        let count = among.len();
        let mut columns = vec![0.0; self.width * count];
        for (place, &row) in among.iter().enumerate() {
            let vector = &self.vectors[row * self.width..(row + 1) * self.width];
            for (index, &value) in vector.iter().enumerate() {
                columns[index * count + place] = value;
            }
        }
        let mut products = vec![0.0; count];
        let of_row = |&row: &usize| {
            products.fill(0.0);
            let vector = &self.vectors[row * self.width..(row + 1) * self.width];
            for (column, &value) in columns.chunks_exact(count.max(1)).zip(vector) {
                for (product, &other) in products.iter_mut().zip(column) {
                    *product += value * other;
                }
            }
            let others = products
                .iter()
                .zip(among)
                .filter(|&(_, &other)| other != row);
            let likeness = others.map(|(&product, &other)| (product, other));
            likeness.reduce(|best, next| if next.0 > best.0 { next } else { best })
        };
        rows.iter().map(of_row).collect()
    }
}
