//! The two halves of a block.

use std::borrow::Cow;
use std::sync::Arc;

use burn::nn::LayerNorm;
use burn::prelude::*;
use burn::tensor::bf16;

use super::attention::{self, Heads};
use super::cpu::Instructions;
use super::epilogue::{Add, Floats, GeluTiles, ToRows};
use super::inputs::{Norm, Source};
use super::layer::Layer;
use super::layout::{Kind, Left, Rows, TILE};
use super::memory::{Memory, with_memory};
use super::tensors::{short_tensor, tensor};
use crate::host::read;
use crate::kernels::flex::floats;
use crate::kernels::flex::{parallel, weighed};
use crate::kernels::{self, Spans};
use crate::{Block, Precision};

/// Rows after the last one that attention may read.
const BEYOND: usize = 16;

/// A block for inference, its products in bfloat16 or in integers, attention in bfloat16 where the CPU multiplies that and
/// in 32-bit floats elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct ShortBlock(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    kind: Kind,
    num_heads: usize,
    epsilon: f32,
    attention_norm: Affine,
    qkv: Layer,
    output: Layer,
    mlp_norm: Affine,
    expand: Layer,
    contract: Layer,
}

/// What a layer norm multiplies by and adds.
#[derive(Debug)]
struct Affine {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Affine {
    fn new(norm: &LayerNorm) -> Option<Self> {
        let values = |tensor| Some(floats::<1>(tensor)?.as_slice::<f32>()?.to_vec());
        Some(Self {
            gamma: values(norm.gamma.val())?,
            beta: values(norm.beta.as_ref()?.val())?,
        })
    }

    fn with(&self, epsilon: f32) -> Norm<'_> {
        Norm {
            gamma: &self.gamma,
            beta: &self.beta,
            epsilon,
        }
    }
}

impl ShortBlock {
    /// The block, whose scales are folded into its layers already. None where precision, CPU or shapes are not for it.
    pub fn new(block: &Block, epsilon: f64, precision: Precision) -> Option<Self> {
        let (set, kind) = Instructions::for_precision(precision)?;
        let attention = &block.attention;
        let [hidden, _] = attention.qkv.weight.dims();
        let [_, inner] = block.mlp.expand.weight.dims();
        let width = hidden / attention.num_heads;
        if [hidden, inner, width].iter().any(|size| size % 16 != 0) || !block.mlp.is_exact() {
            return None;
        }
        let layer = |layer| Layer::new(set, kind, layer);
        Some(Self(Arc::new(Parts {
            kind,
            num_heads: attention.num_heads,
            epsilon: epsilon as f32,
            attention_norm: Affine::new(&block.attention_norm)?,
            qkv: layer(&attention.qkv)?,
            output: layer(&attention.output)?,
            mlp_norm: Affine::new(&block.mlp_norm)?,
            expand: layer(&block.mlp.expand)?,
            contract: layer(&block.mlp.contract)?,
        })))
    }

    /// The MLP's width.
    pub fn width(&self) -> usize {
        self.0.expand.columns()
    }

    /// See [`Block::attend`]. None where the tokens are not here.
    pub fn attend(
        &self,
        tokens: &Tensor<2>,
        spans: &Arc<Spans>,
        key_mask: Option<&Tensor<1>>,
    ) -> Option<(Tensor<2>, Tensor<2>)> {
        let tokens = floats(tokens.clone())?;
        let tokens = tokens.as_slice::<f32>()?;
        let parts = &*self.0;
        let spans = match key_mask {
            Some(mask) => Cow::Owned(Arc::new(weighed(spans, &read(mask.clone())))),
            None => Cow::Borrowed(spans),
        };
        Some(with_memory(|memory| {
            if parts.qkv.set.has_bf16() {
                parts.attend_short(tokens, &spans, memory)
            } else {
                parts.attend_long(tokens, &spans, memory)
            }
        }))
    }

    /// See [`Block::feed_forward`]. None where the tokens are not here.
    pub fn feed_forward(&self, tokens: &Tensor<2>) -> Option<Tensor<2>> {
        let tokens = floats(tokens.clone())?;
        let tokens = tokens.as_slice::<f32>()?;
        Some(with_memory(|memory| self.0.feed_forward(tokens, memory)))
    }
}

impl Parts {
    /// Width of a token.
    fn hidden(&self) -> usize {
        self.output.columns()
    }

    /// The left factor of the first product of a half.
    fn normed(&self, layer: &Layer, norm: &Affine, tokens: &[f32], memory: &mut Memory) -> Left {
        let source = Source::Normed(tokens.as_ptr(), norm.with(self.epsilon));
        let rows = tokens.len() / self.hidden();
        // SAFETY: the tokens have these rows.
        unsafe { layer.input(source, rows, &mut memory.input, &mut memory.scales) }
    }

    /// With attention in bfloat16.
    fn attend_short(
        &self,
        tokens: &[f32],
        spans: &Spans,
        memory: &mut Memory,
    ) -> (Tensor<2>, Tensor<2>) {
        let hidden = self.hidden();
        let (rows, width) = (tokens.len() / hidden, hidden / self.num_heads);
        let left = self.normed(&self.qkv, &self.attention_norm, tokens, memory);
        let mut qkv = Vec::<bf16>::with_capacity((rows + BEYOND) * 3 * hidden);
        let target = ToRows::<false> {
            target: qkv.as_mut_ptr().cast(),
            columns: 3 * hidden,
        };
        // SAFETY: there is room for the rows, and each value is written.
        unsafe {
            self.qkv.multiply(left, &memory.scales, &target);
            qkv.set_len(rows * 3 * hidden);
        }
        memory.rows.resize((rows + BEYOND) * hidden, 0);
        let heads = Heads {
            set: self.qkv.set,
            qkv: qkv.as_ptr().cast(),
            output: memory.rows.as_mut_ptr(),
            hidden,
            width,
            bias: spans.bias.as_deref(),
        };
        let sequences: Vec<(usize, usize)> = spans.iter().filter(|span| span.1 > 0).collect();
        let work: usize = sequences.iter().map(|span| span.1 * span.1 * hidden).sum();
        parallel(sequences.len() * self.num_heads, 2 * work, |task| {
            let (start, tokens) = sequences[task / self.num_heads];
            // SAFETY: the instructions are there, and no other task has this head of these rows.
            unsafe { attention::attend(&heads, start, tokens, task % self.num_heads) };
        });
        let source = Source::Bf16(memory.rows.as_ptr());
        let sum = self.project(source, tokens, &mut memory.input, &mut memory.scales);
        (sum, short_tensor(qkv, [rows, 3 * hidden]))
    }

    /// With attention in 32-bit floats.
    fn attend_long(
        &self,
        tokens: &[f32],
        spans: &Arc<Spans>,
        memory: &mut Memory,
    ) -> (Tensor<2>, Tensor<2>) {
        let hidden = self.hidden();
        let rows = tokens.len() / hidden;
        let left = self.normed(&self.qkv, &self.attention_norm, tokens, memory);
        let mut qkv = Vec::with_capacity(rows * 3 * hidden);
        let target = Floats {
            target: qkv.as_mut_ptr(),
            stride: 3 * hidden,
            columns: 3 * hidden,
        };
        // SAFETY: there is room for the rows, and each value is written.
        unsafe {
            self.qkv.multiply(left, &memory.scales, &target);
            qkv.set_len(rows * 3 * hidden);
        }
        let qkv = tensor(qkv, [rows, 3 * hidden]);
        let heads = kernels::attention(qkv.clone(), spans.clone(), self.num_heads);
        let sum = floats(heads).and_then(|heads| {
            let source = Source::Floats(heads.as_slice::<f32>()?.as_ptr());
            Some(self.project(source, tokens, &mut memory.input, &mut memory.scales))
        });
        (
            sum.unwrap_or_else(|| tensor(tokens.to_vec(), [rows, hidden])),
            qkv,
        )
    }

    /// The heads' projection, added to the tokens.
    fn project(
        &self,
        heads: Source<'_>,
        tokens: &[f32],
        memory: &mut super::layout::Lines,
        scales: &mut Vec<f32>,
    ) -> Tensor<2> {
        let rows = tokens.len() / self.hidden();
        // SAFETY: there are so many heads' rows.
        let left = unsafe { self.output.input(heads, rows, memory, scales) };
        self.added(&self.output, left, scales, tokens)
    }

    fn feed_forward(&self, tokens: &[f32], memory: &mut Memory) -> Tensor<2> {
        let rows = tokens.len() / self.hidden();
        let left = self.normed(&self.expand, &self.mlp_norm, tokens, memory);
        let inner = self.expand.columns();
        let left = match self.kind {
            Kind::Bf16 => {
                let (shape, lines) = (Rows::new(rows), self.contract.packed.lines());
                memory.inner.hold(shape.tiles * lines * TILE);
                let target = GeluTiles {
                    target: memory.inner.start_mut(),
                    lines,
                };
                // SAFETY: the tiles have room for the rows.
                unsafe { self.expand.multiply(left, &[], &target) };
                Left::tiled(memory.inner.start(), shape, lines)
            }
            Kind::Int8 => {
                // A row is quantised once all of it is there.
                memory.rows.resize(rows * inner, 0);
                let target = ToRows::<true> {
                    target: memory.rows.as_mut_ptr(),
                    columns: inner,
                };
                // SAFETY: there is room for the rows.
                unsafe {
                    self.expand.multiply(left, &memory.scales, &target);
                    let source = Source::Bf16(memory.rows.as_ptr());
                    self.contract
                        .input(source, rows, &mut memory.inner, &mut memory.scales)
                }
            }
        };
        self.added(&self.contract, left, &memory.scales, tokens)
    }

    /// The tokens with a layer's output added.
    fn added(&self, layer: &Layer, left: Left, scales: &[f32], tokens: &[f32]) -> Tensor<2> {
        let hidden = self.hidden();
        let mut sum = Vec::with_capacity(tokens.len());
        let target = Add {
            residual: tokens.as_ptr(),
            target: sum.as_mut_ptr(),
            columns: hidden,
        };
        // SAFETY: there is room for the rows, and each value is written.
        unsafe {
            layer.multiply(left, scales, &target);
            sum.set_len(tokens.len());
        }
        tensor(sum, [tokens.len() / hidden, hidden])
    }
}
