//! Short floats and integers on CPUs that have instructions for them. In inference: a block's four products with prepacked
//! weights, and what stands between them in the layout and type that the next one reads. In training: products of 32-bit
//! floats that are rounded to bfloat16 on their way ([`rounded`]).
//!
//! The tokens between the halves of blocks are 32-bit floats. A norm writes its output as the products read it, a product
//! adds its bias, applies GELU or adds the residual to each row of a tile while the next tile is multiplied
//! ([`product`]).
//!
//! Integers: weights are quantised symmetrically by output channel when they are packed, activations symmetrically by token
//! when they are written; sums of products are exact, and the same on every CPU.

mod amx;
mod attention;
mod avx2;
mod avx512;
mod block;
mod cpu;
mod epilogue;
mod inputs;
mod keys;
mod lanes;
mod layer;
mod layout;
mod memory;
mod pack;
mod pairs;
mod product;
mod rounded;
mod tensors;
#[cfg(test)]
mod tests;

pub(crate) use block::ShortBlock;
pub(crate) use cpu::Instructions;
pub(crate) use layer::ShortLinear;
pub(crate) use rounded::Rounded;
pub(crate) use tensors::mean_keys;
