//! Passes in which every image of a batch keeps the same number of tokens: the host knows all shapes, the device
//! decides which tokens stay, and nothing waits for the other.

use burn::prelude::*;
use burn::tensor::activation::softmax;

use crate::kernels::Rows;
use crate::kernels::Sizes;
use crate::kernels::decisions;
use crate::precision::widen;
use crate::{
    Block, ExecutionMode, Heads, Kept, LayerTrace, Placement, RunSettings, UniformObservation,
    UniformReduction, Vit, VitOutput,
};

/// The tokens of a batch between two blocks.
struct Tokens {
    /// `[batch * tokens, hidden]`
    rows: Rows,
    batch: usize,
    count: usize,
    prefix: usize,
    sizes: Option<Sizes>,
    /// What the logarithms of sizes are multiplied by.
    proportion: f32,
    /// What each reduction so far kept of what it saw.
    kept: Vec<Tensor<2, Bool>>,
}

/// See [`Vit::forward_uniformly`].
pub(crate) fn forward(
    vit: &Vit,
    images: Tensor<4>,
    settings: RunSettings<'_>,
) -> Option<VitOutput> {
    let acting = match (settings.mode, settings.reducer) {
        (ExecutionMode::Dense, _) | (_, None) => None,
        (ExecutionMode::Mask, Some(_)) => return None,
        (ExecutionMode::Drop, Some(reducer)) => Some((reducer, reducer.uniform()?)),
    };
    let mut trace = Vec::new();
    let mut tokens = Tokens::of(vit, images);
    for (layer, block) in vit.blocks.iter().enumerate() {
        let (rows, qkv) = tokens.attend(block);
        tokens.rows = rows;
        let acting = acting
            .and_then(|(reducer, uniform)| Some((reducer, uniform, reducer.placement(layer)?)));
        let seen = acting.map(|(reducer, ..)| {
            let needs = reducer.needs(layer);
            let qkv = qkv.without_autodiff();
            let heads = block.attention.num_heads;
            let attention = || tokens.cls_attention(&qkv, heads);
            let keys = || decisions::unit_keys(qkv.clone(), tokens.batch, heads);
            (needs.cls_attention.then(attention), needs.keys.then(keys))
        });
        let mut reduce = |tokens: &mut Tokens, here: Placement| {
            let Some((_, uniform, placement)) = acting.filter(|acting| acting.2 == here) else {
                return;
            };
            let (cls_attention, keys) = seen.clone().unwrap_or_default();
            let reduction = uniform.reduce_uniformly(&UniformObservation {
                layer,
                prefix: tokens.prefix,
                rows: tokens.rows.clone(),
                batch: tokens.batch,
                cls_attention,
                keys,
                sizes: tokens.sizes.as_ref().map(|sizes| sizes.counts.clone()),
            });
            let before = tokens.count;
            let logits = reduction.and_then(|reduction| tokens.reduce(reduction));
            trace.push(LayerTrace {
                layer,
                placement,
                seen: vec![before; tokens.batch],
                left: vec![tokens.count; tokens.batch],
                kept: tokens.kept(vit),
                logits,
                parked: vec![0; tokens.batch],
                restarted: vec![false; tokens.batch],
            });
        };
        reduce(&mut tokens, Placement::AfterAttention);
        tokens.rows = block.feed_forward_uniformly(tokens.rows);
        reduce(&mut tokens, Placement::AfterBlock);
    }
    let rows = tokens.rows.sum();
    let places = 0..Heads::of(vit).tokens();
    let first: Vec<Tensor<2>> = places.map(|place| tokens.at(&rows, place)).collect();
    Some(vit.output_of(&first, trace))
}

impl Tokens {
    fn of(vit: &Vit, images: Tensor<4>) -> Self {
        let batch = vit.embed(images);
        let sequences = &batch.sequences;
        Self {
            batch: sequences.batch(),
            count: sequences.tokens_per_image(),
            prefix: sequences.prefix(),
            rows: Rows::new(batch.tokens),
            sizes: None,
            proportion: 1.0,
            kept: Vec::new(),
        }
    }

    /// Each image's token at `place`, `[batch, hidden]`.
    fn at(&self, rows: &Tensor<2>, place: usize) -> Tensor<2> {
        let [_, hidden] = rows.dims();
        let by_image = rows.clone().reshape([self.batch, self.count, hidden]);
        by_image.narrow(1, place, 1).squeeze_dim(1)
    }

    /// The attention half of a block, and its queries, keys and values.
    fn attend(&self, block: &Block) -> (Rows, Tensor<2>) {
        block.attend_uniformly(self.rows.clone(), self.count, self.bias())
    }

    /// What is added to everyone's attention scores for each token, `[batch, tokens]`.
    fn bias(&self) -> Option<Tensor<2>> {
        let logarithms = self.sizes.as_ref()?.logarithms.clone();
        if self.proportion == 1.0 {
            Some(logarithms)
        } else {
            Some(logarithms * self.proportion)
        }
    }

    /// One part of `[rows, 3 * hidden]` head by head, `[batch, tokens, heads, width]`.
    fn heads(&self, qkv: &Tensor<2>, part: usize, heads: usize) -> Tensor<4> {
        let [_, columns] = qkv.dims();
        let hidden = columns / 3;
        let part = qkv.clone().narrow(1, part * hidden, hidden);
        part.reshape([self.batch, self.count, heads, hidden / heads])
    }

    /// How much CLS attends to each token, averaged over the heads, `[batch, tokens]`.
    fn cls_attention(&self, qkv: &Tensor<2>, heads: usize) -> Tensor<2> {
        let query = self.heads(qkv, 0, heads).narrow(1, 0, 1).swap_dims(1, 2);
        let keys = self.heads(qkv, 1, heads).swap_dims(1, 2);
        let [.., width] = keys.dims();
        let scores = widen(query.matmul(keys.swap_dims(2, 3))) / (width as f32).sqrt();
        let scores: Tensor<3> = scores.squeeze_dim(2);
        let scores = match self.bias() {
            Some(bias) => scores + widen(bias).unsqueeze_dim(1),
            None => scores,
        };
        softmax(scores, 2).mean_dim(1).squeeze_dim(1)
    }

    /// Carries a reduction out. Returns its logits.
    fn reduce(&mut self, reduction: UniformReduction) -> Option<Tensor<2>> {
        let UniformReduction {
            keep,
            left,
            merge,
            logits,
        } = reduction;
        // A token alone that is merged may be weighed all the same.
        if left < self.count || merge.is_some() {
            let sizes = self.sizes.take();
            self.proportion = merge
                .as_ref()
                .map_or(self.proportion, |merge| merge.proportion);
            (self.rows, self.sizes) = decisions::merge(&self.rows, &keep, left, merge, sizes);
            self.count = left;
            self.kept.push(keep);
        }
        logits
    }

    fn kept(&self, vit: &Vit) -> Kept {
        let [_, tokens, _] = vit.embedding.positions.dims();
        Kept::on_device(self.batch, tokens, self.kept.clone())
    }
}
