use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Initializer, Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::DType;

use crate::kernels::ShortLinear;
use crate::precision::{cast, widen};
use crate::stem::Stem;
use crate::{Precision, Sequences, StemConfig, TokenBatch, VitConfig, kernels};

/// Images to tokens: each patch projected, CLS in front, positions added, dropout
/// (Dosovitskiy et al. 2021, equation 1).
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// What images go through first, in a hybrid model.
    pub stem: Option<Stem>,
    /// The projection of a flattened patch, `[channels * patch * patch, hidden]`: channels
    /// outermost, then rows, then columns. A convolution of stride `patch`, written as a matrix
    /// product.
    pub projection: Linear,
    /// The CLS token, `[1, 1, hidden]`.
    pub cls_token: Param<Tensor<3>>,
    /// The distillation token, `[1, 1, hidden]`.
    pub distillation_token: Option<Param<Tensor<3>>>,
    /// The learned positions, CLS first, `[1, tokens, hidden]`.
    pub positions: Param<Tensor<3>>,
    /// Dropout after the positions.
    pub dropout: Dropout,
    /// Side of a patch in what is projected: pixels, or what a stem makes of them.
    patch_size: usize,
    /// Rows and columns of patches.
    grid: [usize; 2],
    /// Of the projection.
    #[module(skip)]
    pub(crate) precision: Precision,
    /// The projection, prepacked in that precision, where the CPU has kernels for it. Its weight is empty then.
    #[module(skip)]
    short: Option<ShortLinear>,
}

impl PatchEmbedding {
    pub(crate) fn new(config: &VitConfig, device: &Device) -> Self {
        let normal = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        let hidden = config.hidden_size;
        let mut projection = LinearConfig::new(config.patch_inputs(), hidden)
            .with_initializer(Initializer::XavierUniform { gain: 1.0 })
            .init(device);
        projection.bias = Some(Initializer::Zeros.init([hidden], device));
        let token = || normal.init([1, 1, hidden], device);
        let reduction = config.stem.as_ref().map_or(1, StemConfig::reduction);
        Self {
            stem: config.stem.as_ref().map(|stem| stem.init(device)),
            projection,
            cls_token: token(),
            distillation_token: config.distillation.map(|_| token()),
            positions: normal.init([1, config.num_tokens(), hidden], device),
            dropout: DropoutConfig::new(config.dropout).init(),
            patch_size: config.patch_size / reduction,
            grid: config.grid(),
            precision: Precision::F32,
            short: None,
        }
    }

    /// See [`Vit::prepack`](crate::Vit::prepack).
    pub(crate) fn prepack(mut self) -> Self {
        if self.short.is_some() {
            return self;
        }
        self.short = match self.precision {
            Precision::F32 | Precision::F16 => None,
            // The first layer stays in bfloat16 where the others are quantised.
            Precision::Bf16 | Precision::Int8 => {
                ShortLinear::new(&self.projection, Precision::Bf16)
            }
        };
        if self.short.is_some() {
            let projection = &mut self.projection;
            let weight = projection.weight.clone();
            projection.weight = weight.map(|weight| Tensor::zeros([1, 1], &weight.device()));
        } else {
            // Without instructions for bfloat16, the weight of a quantised model's first layer is rounded to it all the same: its
            // answers do not depend on the CPU more than they must, and an exported file says the same.
            if self.precision == Precision::Int8 {
                let projection = &mut self.projection;
                let weight = projection.weight.clone();
                projection.weight = weight.map(|weight| widen(cast(weight, DType::BF16)));
            }
            self.projection = kernels::prepack(self.projection, self.precision);
        }
        self
    }

    /// `[batch, 3, height, width]` to a full token batch.
    ///
    /// # Panics
    ///
    /// Panics where the images have another size than the model.
    pub fn forward(&self, images: Tensor<4>) -> TokenBatch {
        let features = match &self.stem {
            Some(stem) => stem.forward(images),
            None => images,
        };
        let [batch, _, height, width] = features.dims();
        let (patch, [rows, columns]) = (self.patch_size, self.grid);
        assert_eq!(
            [height, width],
            [rows * patch, columns * patch],
            "image size of the model"
        );

        let patches = kernels::patches(features, patch);
        let dtype = match self.precision {
            Precision::Bf16 if kernels::keeps_tokens_short(&patches.device()) => {
                self.precision.dtype().into()
            }
            _ => patches.dtype(),
        };
        let short = self.short.as_ref();
        let patches = match short.and_then(|short| short.forward(&patches)) {
            Some(patches) => patches,
            None => {
                let patches = self.precision.round(patches);
                kernels::linear(&self.projection, patches, self.precision)
            }
        };
        let prefix = [Some(&self.cls_token), self.distillation_token.as_ref()];
        let prefix: Vec<Tensor<3>> = prefix.into_iter().flatten().map(Param::val).collect();
        let (positions, first) = (self.positions.val(), prefix.len());
        let [_, count, hidden] = positions.dims();
        let prefix = Tensor::cat(prefix, 1) + positions.clone().narrow(1, 0, first);
        let rest = positions.narrow(1, first, count - first);
        let table = Tensor::cat(vec![prefix, rest], 1).reshape([count, hidden]);
        let tokens = kernels::assemble(cast(patches, dtype), cast(table, dtype), first);
        let sequences = Sequences::full(batch, count).with_prefix(first);
        TokenBatch::packed(self.dropout.forward(tokens), sequences)
    }
}
