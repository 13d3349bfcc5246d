//! What the CLS tokens of a batch read of parked tokens.

use std::ops::Range;

use burn::tensor::Tensor;

/// Which parked tokens each image's CLS token reads beside the tokens that its block computes.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    /// Per image that reads: its rows of the batch, CLS first.
    pub rows: Vec<Range<usize>>,
    /// Per image that reads: its parked tokens, at least one.
    pub parked: Vec<Vec<usize>>,
    /// What is added to CLS's score of each row of the batch, where anything is.
    pub bias_of_rows: Option<Vec<f32>>,
    /// What is added to CLS's score of each parked token, in every head.
    pub bias_of_parked: Vec<f32>,
    pub num_heads: usize,
    /// Of the layer norm.
    pub epsilon: f64,
}

/// The tensors that a read takes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "flex"), allow(dead_code))] // the kernel alone reads it
pub(crate) struct ReadInputs<'a> {
    /// `[rows, 3 * hidden]`, of the tokens that the block computes.
    pub qkv: &'a Tensor<2>,
    /// Parked tokens, `[tokens, hidden]` each. A token's number counts through all groups.
    pub groups: &'a [Tensor<2>],
    /// What each group's tokens are multiplied by, and what is added then, `[groups, hidden]`.
    pub drift: [&'a Tensor<2>; 2],
    /// What they are normalised to, a factor and a sum: `[2, hidden]`.
    pub norm: &'a Tensor<2>,
    /// Each output of the key projection, then each of the value projection: `[2 * hidden, hidden]`.
    pub projections: &'a Tensor<2>,
    /// `[1, 2 * hidden]`
    pub biases: &'a Tensor<2>,
    /// What is added to the scores of parked tokens, `[1, heads]`.
    pub bias: &'a Tensor<2>,
}
