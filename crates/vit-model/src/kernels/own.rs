//! What a backend that has kernels of its own must have.

use std::fmt::Debug;

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use super::row_sums::RowSums;
use super::spans::Spans;
use crate::Precision;

/// The kernels that a backend has for its tensors of 32-bit floats: each operation forwards,
/// with what its backward pass needs, and backwards.
pub(crate) trait Kernels<B: Backend>: Debug + Sync {
    /// Output, `[rows, hidden]`, and the logarithm of each softmax's denominator,
    /// `[heads, rows]`.
    fn attention(
        &self,
        qkv: &FloatTensor<B>,
        spans: &Spans,
        num_heads: usize,
    ) -> (FloatTensor<B>, FloatTensor<B>);

    /// The gradient of `qkv`, given that of the output.
    fn attention_backward(
        &self,
        qkv: &FloatTensor<B>,
        forward: &(FloatTensor<B>, FloatTensor<B>),
        gradient: &FloatTensor<B>,
        spans: &Spans,
        num_heads: usize,
    ) -> FloatTensor<B>;

    /// As [`attention`](Self::attention), with keys that weigh what `key_mask` says.
    fn masked_attention(
        &self,
        qkv: &FloatTensor<B>,
        key_mask: &FloatTensor<B>,
        spans: &Spans,
        num_heads: usize,
    ) -> (FloatTensor<B>, FloatTensor<B>);

    /// The gradients of `qkv` and key mask where they are `wanted`, given that of the output.
    fn masked_attention_backward(
        &self,
        inputs: [&FloatTensor<B>; 2],
        forward: &(FloatTensor<B>, FloatTensor<B>),
        gradient: &FloatTensor<B>,
        spans: &Spans,
        num_heads: usize,
        wanted: [bool; 2],
    ) -> [Option<FloatTensor<B>>; 2];

    /// Draws a new dropout mask from the backend's random numbers.
    fn mask(&self, probability: f64) -> Mask;

    /// A linear layer's output, given to what comes then, and what GELU was applied to where
    /// that is to be kept. Dropout is applied after GELU, and before anything is added. The factors of the product are rounded
    /// to the precision, where the kernels know it.
    fn linear(
        &self,
        input: &FloatTensor<B>,
        weight: &FloatTensor<B>,
        bias: &FloatTensor<B>,
        then: Then<&FloatTensor<B>>,
        mask: Option<Mask>,
        precision: Precision,
    ) -> (FloatTensor<B>, Option<FloatTensor<B>>);

    /// Another layout of the same values, which [`linear`](Self::linear) takes as well as the plain
    /// one. Only once: it does not tell one from the other.
    fn prepack(&self, weight: &FloatTensor<B>) -> FloatTensor<B>;

    /// The gradients of input, weight and bias where they are `wanted`, given the first two as `inputs`, and the gradient of
    /// the output; where GELU followed the linear layer, it was applied to `before_gelu`.
    fn linear_backward(
        &self,
        inputs: [&FloatTensor<B>; 2],
        before_gelu: Option<&FloatTensor<B>>,
        mask: Option<Mask>,
        gradient: FloatTensor<B>,
        wanted: [bool; 3],
        precision: Precision,
    ) -> [Option<FloatTensor<B>>; 3];

    /// The patches, line by line.
    fn patches(&self, features: &FloatTensor<B>, patch: usize) -> FloatTensor<B>;

    /// The tokens.
    fn assemble(
        &self,
        patches: &FloatTensor<B>,
        table: &FloatTensor<B>,
        prefix: usize,
    ) -> FloatTensor<B>;

    /// The mean over the heads.
    fn mean_keys(&self, qkv: &FloatTensor<B>, num_heads: usize) -> FloatTensor<B>;

    /// The scores.
    fn cls_scores(
        &self,
        qkv: &FloatTensor<B>,
        cls_rows: &[usize],
        num_heads: usize,
    ) -> FloatTensor<B>;

    /// The sums.
    fn sum_rows(&self, input: &FloatTensor<B>, sums: &RowSums) -> FloatTensor<B>;

    /// Output, and each row's mean and reciprocal standard deviation, `[rows, 2]`.
    fn layer_norm(
        &self,
        input: &FloatTensor<B>,
        gamma: &FloatTensor<B>,
        beta: &FloatTensor<B>,
        epsilon: f64,
    ) -> (FloatTensor<B>, FloatTensor<B>);

    /// The gradients of input, gamma and beta where they are `wanted`, given that of the output.
    fn layer_norm_backward(
        &self,
        input: &FloatTensor<B>,
        gamma: &FloatTensor<B>,
        statistics: &FloatTensor<B>,
        gradient: &FloatTensor<B>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3];
}

/// What becomes of a linear layer's output, in the same kernel.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "flex"), allow(dead_code))] // kernels alone read it
pub(crate) enum Then<T> {
    /// Nothing.
    End,
    /// Exact GELU is applied to it.
    Gelu {
        /// Is it returned too, for the backward pass?
        keep: bool,
    },
    /// It is added to this.
    Add(T),
}

/// A dropout mask of any shape: never stored, but computed from its seed wherever it is needed.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "flex"), allow(dead_code))] // kernels alone read it
pub(crate) struct Mask {
    /// Equal seeds give equal masks.
    pub seed: [u32; 2],
    /// How likely a value is dropped.
    pub probability: f64,
}
