//! Keys of bfloat16, averaged over the heads.

use burn::tensor::bf16;
use rayon::prelude::*;

/// Rows that a task computes.
const ROWS: usize = 64;

/// The keys of `qkv`, rows of `columns` values, averaged: rows of a head's width.
pub(super) fn means(qkv: &[bf16], columns: usize, num_heads: usize) -> Vec<f32> {
    let hidden = columns / 3;
    let width = hidden / num_heads;
    let mut means = vec![0.0; qkv.len() / columns * width];
    let tasks = means
        .par_chunks_mut(ROWS * width)
        .zip(qkv.par_chunks(ROWS * columns));
    tasks.for_each(|(means, qkv)| add_means(means, qkv, columns, width));
    means
}

crate::kernels::flex::vectorised! {
    fn add_means(means: &mut [f32], qkv: &[bf16], columns: usize, width: usize) {
        let hidden = columns / 3;
        let share = width as f32 / hidden as f32;
        for (mean, row) in means.chunks_exact_mut(width).zip(qkv.chunks_exact(columns)) {
            for head in row[hidden..2 * hidden].chunks_exact(width) {
                for (sum, key) in mean.iter_mut().zip(head) {
                    *sum += f32::from_bits(u32::from(key.to_bits()) << 16);
                }
            }
            mean.iter_mut().for_each(|sum| *sum *= share);
        }
    }
}
