use burn::prelude::*;

/// The rows of a matrix, `[rows, columns]`, on the host: one for each image of a batch.
pub fn rows(matrix: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, columns] = matrix.dims();
    let values: Vec<f32> = matrix.into_data().iter::<f32>().collect();
    values.chunks_exact(columns).map(<[f32]>::to_vec).collect()
}
