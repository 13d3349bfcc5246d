use std::ops::Range;

use burn::module::Module;
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::prelude::*;

use crate::encoder::run_blocks;
use crate::{
    Block, BlockConfig, Encoded, Heads, LayerTrace, PatchEmbedding, Precision, RunSettings,
    TokenBatch, VitConfig, VitError,
};

/// A pre-norm Vision Transformer (Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021),
/// created by [`VitConfig::init`].
#[derive(Module, Debug)]
pub struct Vit {
    /// Images to tokens.
    pub embedding: PatchEmbedding,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// The norm after the last block.
    pub norm: LayerNorm,
    /// The classification head on the CLS token, `[hidden, classes]`, where there is one.
    pub head: Option<Linear>,
    /// The head on the distillation token; the logits are the mean of both.
    pub distillation_head: Option<Linear>,
}

/// What the model answers to a batch, and what was removed on the way to it.
#[derive(Clone, Debug)]
pub struct VitOutput {
    /// Class logits, `[batch, classes]`; of a model without a head its features, `[batch, hidden]`.
    pub logits: Tensor<2>,
    /// What the head sees: the CLS tokens after the last norm, `[batch, hidden]`.
    pub features: Tensor<2>,
    /// One entry for each block in which the reducer acted.
    pub trace: Vec<LayerTrace>,
}

impl Vit {
    pub(crate) fn new(config: &VitConfig, device: &Device) -> Self {
        let head = || {
            let mut head = LinearConfig::new(config.hidden_size, config.num_classes)
                .with_initializer(Initializer::Zeros)
                .init(device);
            head.bias = Some(Initializer::Zeros.init([config.num_classes], device));
            head
        };
        let heads = config.num_heads_on_top();
        let block = BlockConfig::new(config.clone());
        Self {
            embedding: PatchEmbedding::new(config, device),
            blocks: (0..config.num_layers).map(|_| block.init(device)).collect(),
            norm: LayerNormConfig::new(config.hidden_size)
                .with_epsilon(config.layer_norm_eps)
                .init(device),
            head: (heads > 0).then(head),
            distillation_head: (heads > 1).then(head),
        }
    }

    /// The same model, its matrix products computed in `precision`; the weights stay as they are.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.embedding.precision = precision;
        for block in &mut self.blocks {
            block.precision = precision;
        }
        self
    }

    /// The same model, its head's weights, `[hidden, classes]`, what `change` makes of them; without a head, as it is. A fresh
    /// head is zero, and says the same of every image.
    pub fn map_head(mut self, change: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        if let Some(head) = &mut self.head {
            head.weight = head.weight.clone().map(change);
        }
        self
    }

    /// What its matrix products are computed in.
    pub fn precision(&self) -> Precision {
        self.embedding.precision
    }

    /// The same model; once it is [prepacked](Self::prepack), CLS can still read parked tokens. That keeps a third of the blocks' weights
    /// a second time.
    pub fn keep_readers(mut self) -> Self {
        self.blocks = self.blocks.into_iter().map(Block::keep_reader).collect();
        self
    }

    /// The model for inference: its weights laid out as the backend's kernels read them, if it has
    /// kernels (so far the CPU's), and rounded or quantised once to the model's precision. Worth most for one
    /// image at a time. Shapes that the kernels of short precisions do not take (sizes that are no multiples of 16, GELU by
    /// tanh) run in 32-bit floats.
    ///
    /// The result can only run: it does not learn, and its weights are not to be saved.
    pub fn prepack(mut self) -> Self {
        self.embedding = self.embedding.prepack();
        self.blocks = self.blocks.into_iter().map(Block::prepack).collect();
        self
    }

    /// The MLPs' width, where the blocks are prepacked in a short precision.
    pub(crate) fn short_width(&self) -> Option<usize> {
        self.blocks.first().and_then(Block::short_width)
    }

    /// Image patches to tokens: `[batch, 3, height, width]` to a full token batch.
    pub fn embed(&self, images: Tensor<4>) -> TokenBatch {
        self.embedding.forward(images)
    }

    /// Runs some of the blocks. A later call goes on where this one ended.
    pub fn run_blocks(
        &self,
        batch: TokenBatch,
        layers: Range<usize>,
        settings: RunSettings<'_>,
    ) -> Encoded {
        run_blocks(self, batch, layers, settings)
    }

    /// The class logits, `[batch, classes]`, after the last block; without a head the features, `[batch, hidden]`.
    pub fn classify(&self, batch: &TokenBatch) -> Tensor<2> {
        let heads = Heads::of(self);
        heads.answer(&batch.first_tokens(heads.tokens())).0
    }

    /// What the model answers, given what its last block left.
    pub fn answer(&self, encoded: Encoded) -> VitOutput {
        let tokens = encoded.batch.first_tokens(Heads::of(self).tokens());
        self.output_of(&tokens, encoded.trace)
    }

    /// The output, given the tokens that the heads see, `[batch, hidden]` each.
    pub(crate) fn output_of(&self, tokens: &[Tensor<2>], trace: Vec<LayerTrace>) -> VitOutput {
        let (logits, features) = Heads::of(self).answer(tokens);
        VitOutput {
            logits,
            features,
            trace,
        }
    }

    /// Images to logits, for images that stand in their batch from `first` on.
    pub(crate) fn forward_from(
        &self,
        images: Tensor<4>,
        first: usize,
        settings: RunSettings<'_>,
    ) -> VitOutput {
        let mut batch = self.embed(images);
        batch.sequences = batch.sequences.with_first_image(first);
        self.answer(self.run_blocks(batch, 0..self.blocks.len(), settings))
    }
}

impl VitConfig {
    /// Creates the model with fresh weights on `device`: truncated normal (0.02) for patch
    /// embedding, CLS and positions, Xavier uniform for the blocks, zero for the head, as the
    /// published ViT starts.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Vit, VitError> {
        self.validate()?;
        Ok(Vit::new(self, device))
    }
}
