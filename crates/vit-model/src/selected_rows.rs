//! Some rows of a matrix.

use burn::prelude::*;

use crate::Sequences;
use crate::host::upload_places;

/// The rows of a matrix that are somebody's.
pub(crate) fn own_rows(matrix: Tensor<2>, sequences: &Sequences) -> Tensor<2> {
    if matrix.dims()[0] > sequences.num_rows() {
        matrix.narrow(0, 0, sequences.num_rows())
    } else {
        matrix
    }
}

/// The given rows of a matrix (or values of a vector), in the given order.
pub(crate) fn select_rows<const D: usize>(matrix: Tensor<D>, rows: &[usize]) -> Tensor<D> {
    let device = matrix.device();
    matrix.select(0, upload_places(rows.iter().copied(), &device))
}
