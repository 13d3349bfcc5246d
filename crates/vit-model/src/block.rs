use std::sync::Arc;

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{
    Dropout, DropoutConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::prelude::*;
use burn::tensor::activation::gelu_approximate;

use crate::kernels::{Rows, ShortBlock, Spans};
use crate::precision::cast;
use crate::reading::Reader;
use crate::{Activation, Attention, AttentionConfig, Precision, Sequences, VitConfig, kernels};

/// Two linear layers with an activation between them and dropout after both.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden, mlp]`
    pub expand: Linear,
    /// `[mlp, hidden]`
    pub contract: Linear,
    /// Dropout after both layers.
    pub dropout: Dropout,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    /// Is its activation exact GELU, not its approximation by tanh?
    pub fn is_exact(&self) -> bool {
        self.activation == Activation::Gelu
    }

    /// `[rows, hidden]` to `[rows, hidden]`.
    pub fn forward(&self, tokens: Tensor<2>, precision: Precision) -> Tensor<2> {
        let inner = self.inner(tokens, precision);
        let output = kernels::linear(&self.contract, inner, precision);
        self.dropout.forward(output)
    }

    /// `residual + mlp(tokens)`.
    fn forward_onto(
        &self,
        tokens: Tensor<2>,
        residual: Tensor<2>,
        precision: Precision,
    ) -> Tensor<2> {
        let inner = self.inner(tokens, precision);
        let dropout = Some(&self.dropout);
        kernels::linear_add(&self.contract, inner, dropout, residual, precision)
    }

    /// `[rows, hidden]` to `[rows, mlp]`.
    fn inner(&self, tokens: Tensor<2>, precision: Precision) -> Tensor<2> {
        match self.activation {
            Activation::Gelu => {
                kernels::linear_gelu(&self.expand, tokens, &self.dropout, precision)
            }
            Activation::GeluTanh => {
                let inner = gelu_approximate(kernels::linear(&self.expand, tokens, precision));
                self.dropout.forward(inner)
            }
        }
    }
}

/// Configuration of a [`Block`].
#[derive(Config, Debug)]
pub struct BlockConfig {
    /// The model that the block belongs to.
    pub model: VitConfig,
}

impl BlockConfig {
    /// Creates the block with Xavier-uniform weights on `device`.
    pub fn init(&self, device: &Device) -> Block {
        let model = &self.model;
        let norm = || {
            LayerNormConfig::new(model.hidden_size)
                .with_epsilon(model.layer_norm_eps)
                .init(device)
        };
        let linear = |input, output| {
            LinearConfig::new(input, output)
                .with_initializer(Initializer::XavierUniform { gain: 1.0 })
                .init(device)
        };
        let scale = || {
            let init = |value| Initializer::Constant { value }.init([model.hidden_size], device);
            model.layer_scale.map(init)
        };
        Block {
            attention_norm: norm(),
            attention: AttentionConfig::new(model.hidden_size, model.num_heads).init(device),
            mlp_norm: norm(),
            mlp: Mlp {
                expand: linear(model.hidden_size, model.mlp_dim),
                contract: linear(model.mlp_dim, model.hidden_size),
                dropout: DropoutConfig::new(model.dropout).init(),
                activation: model.activation,
            },
            attention_scale: scale(),
            mlp_scale: scale(),
            layer_norm_eps: model.layer_norm_eps,
            precision: Precision::F32,
            short: None,
            reader: None,
            is_prepacked: false,
        }
    }
}

/// One pre-norm Transformer block (Dosovitskiy et al. 2021, equations 2 and 3), with LayerScale
/// where the config has it.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm before the attention.
    pub attention_norm: LayerNorm,
    /// Attention within each image.
    pub attention: Attention,
    /// The norm before the MLP.
    pub mlp_norm: LayerNorm,
    /// The MLP over each token.
    pub mlp: Mlp,
    /// What the attention half is scaled by before it is added, `[hidden]`.
    pub attention_scale: Option<Param<Tensor<1>>>,
    /// What the MLP half is scaled by before it is added, `[hidden]`.
    pub mlp_scale: Option<Param<Tensor<1>>>,
    /// Of both norms.
    layer_norm_eps: f64,
    /// Of the linear layers and the attention.
    #[module(skip)]
    pub(crate) precision: Precision,
    /// All of it, prepacked in that precision, where the CPU has kernels for it. The layers are empty then.
    #[module(skip)]
    short: Option<ShortBlock>,
    /// What CLS reads parked tokens by, where it was kept when the layers were laid out for inference.
    #[module(skip)]
    reader: Option<Reader>,
    /// Are the layers laid out for inference?
    #[module(skip)]
    is_prepacked: bool,
}

impl Block {
    /// The attention half, `x + attention(norm(x))`, and the queries, keys and values it used.
    ///
    /// # Shapes
    ///
    /// - `tokens`: `[rows, hidden]`
    /// - `key_mask`: `[rows]`, what each row weighs as a key
    /// - output: `([rows, hidden], [rows, 3 * hidden])`
    pub fn attend(
        &self,
        tokens: Tensor<2>,
        sequences: &Sequences,
        key_mask: Option<&Tensor<1>>,
    ) -> (Tensor<2>, Tensor<2>) {
        if let Some(short) = &self.short
            && let Some(result) = short.attend(&tokens, &sequences.spans(), key_mask)
        {
            return result;
        }
        let normed = self.normed(&self.attention_norm, &tokens);
        let (attention, precision) = (&self.attention, self.precision);
        let Some(scale) = &self.attention_scale else {
            let residual = Some(tokens);
            return attention.forward(normed, sequences, key_mask, residual, precision);
        };
        let (output, qkv) = attention.forward(normed, sequences, key_mask, None, precision);
        (added(tokens, output, scale.val()), qkv)
    }

    /// As [`attend`](Self::attend), where every image has `count` tokens. `bias`, `[images, count]`, is added to everyone's
    /// attention scores for each of them.
    pub(crate) fn attend_uniformly(
        &self,
        rows: Rows,
        count: usize,
        bias: Option<Tensor<2>>,
    ) -> (Rows, Tensor<2>) {
        if let Some(short) = &self.short {
            let tokens = rows.sum();
            let spans = Arc::new(Spans::uniform(tokens.dims()[0], count, bias.as_ref()));
            if let Some((tokens, qkv)) = short.attend(&tokens, &spans, None) {
                return (Rows::new(tokens), qkv);
            }
        }
        let (rows, normed) = rows.normed(&self.attention_norm, self.layer_norm_eps);
        let normed = self.precision.round(normed);
        let waits = rows.can_wait() || self.attention_scale.is_some();
        let residual = (!waits).then(|| rows.tokens.clone());
        let attention = &self.attention;
        let (output, qkv) =
            attention.forward_uniformly(normed, count, bias, residual, self.precision);
        let rows = if waits {
            rows.plus(scaled_by(output, self.attention_scale.as_ref()))
        } else {
            Rows::new(output)
        };
        (rows, qkv)
    }

    /// As [`feed_forward`](Self::feed_forward), of tokens to which something may be still to be added.
    pub(crate) fn feed_forward_uniformly(&self, rows: Rows) -> Rows {
        if self.short.is_some() {
            return Rows::new(self.feed_forward(rows.sum()));
        }
        let (rows, normed) = rows.normed(&self.mlp_norm, self.layer_norm_eps);
        let normed = self.precision.round(normed);
        if rows.can_wait() || self.mlp_scale.is_some() {
            let output = self.mlp.forward(normed, self.precision);
            let output = scaled_by(output, self.mlp_scale.as_ref());
            rows.plus(output)
        } else {
            Rows::new(self.mlp.forward_onto(normed, rows.tokens, self.precision))
        }
    }

    /// The MLP half, `x + mlp(norm(x))`, on `[rows, hidden]`.
    pub fn feed_forward(&self, tokens: Tensor<2>) -> Tensor<2> {
        if let Some(short) = &self.short
            && let Some(output) = short.feed_forward(&tokens)
        {
            return output;
        }
        let normed = self.normed(&self.mlp_norm, &tokens);
        match &self.mlp_scale {
            None => self.mlp.forward_onto(normed, tokens, self.precision),
            Some(scale) => {
                let output = self.mlp.forward(normed, self.precision);
                added(tokens, output, scale.val())
            }
        }
    }

    /// The MLP's width, where the block is prepacked in a short precision.
    pub(crate) fn short_width(&self) -> Option<usize> {
        self.short.as_ref().map(ShortBlock::width)
    }

    /// What CLS reads parked tokens by; none where the layers are laid out for inference without it.
    pub(crate) fn reader(&self) -> Option<Reader> {
        if self.is_prepacked {
            return self.reader.clone();
        }
        let (norm, scale) = (&self.attention_norm, self.attention_scale.as_ref());
        let reader = Reader::new(norm, self.layer_norm_eps, &self.attention, scale);
        Some(reader)
    }

    /// Can CLS read parked tokens here?
    pub(crate) fn can_read(&self) -> bool {
        !self.is_prepacked || self.reader.is_some()
    }

    /// See [`Vit::keep_readers`](crate::Vit::keep_readers).
    pub(crate) fn keep_reader(self) -> Self {
        Self {
            reader: self.reader(),
            ..self
        }
    }

    /// See [`Vit::prepack`](crate::Vit::prepack).
    pub fn prepack(mut self) -> Self {
        if self.short.is_some() {
            return self;
        }
        self.is_prepacked = true;
        self.attention.output = scaled(self.attention.output, self.attention_scale.take());
        self.mlp.contract = scaled(self.mlp.contract, self.mlp_scale.take());
        self.short = ShortBlock::new(&self, self.layer_norm_eps, self.precision);
        if self.short.is_some() {
            let attention = &mut self.attention;
            let mlp = &mut self.mlp;
            let layers = [
                &mut attention.qkv,
                &mut attention.output,
                &mut mlp.expand,
                &mut mlp.contract,
            ];
            layers.into_iter().for_each(empty);
            return self;
        }
        let prepack = |layer| kernels::prepack(layer, self.precision);
        self.attention.qkv = prepack(self.attention.qkv);
        self.attention.output = prepack(self.attention.output);
        self.mlp.expand = prepack(self.mlp.expand);
        self.mlp.contract = prepack(self.mlp.contract);
        self
    }

    /// Normalised, and in the type that the linear layers read.
    fn normed(&self, norm: &LayerNorm, tokens: &Tensor<2>) -> Tensor<2> {
        let normed = kernels::layer_norm(norm, self.layer_norm_eps, tokens.clone());
        self.precision.round(normed)
    }
}

/// `output * scale`, where there is a scale.
fn scaled_by(output: Tensor<2>, scale: Option<&Param<Tensor<1>>>) -> Tensor<2> {
    match scale {
        Some(scale) => {
            let scale = cast(scale.val(), output.dtype());
            output * scale.unsqueeze()
        }
        None => output,
    }
}

/// `tokens + output * scale`, in the floats of the tokens.
fn added(tokens: Tensor<2>, output: Tensor<2>, scale: Tensor<1>) -> Tensor<2> {
    let dtype = tokens.dtype();
    tokens + cast(output, dtype) * cast(scale, dtype).unsqueeze()
}

/// Lets go of a layer's weight, which is prepacked elsewhere.
fn empty(layer: &mut Linear) {
    let weight = layer.weight.clone();
    layer.weight = weight.map(|weight| Tensor::zeros([1, 1], &weight.device()));
}

/// The layer with its outputs scaled.
fn scaled(mut layer: Linear, scale: Option<Param<Tensor<1>>>) -> Linear {
    if let Some(scale) = scale {
        let scale = scale.val();
        layer.weight = layer
            .weight
            .map(|weight| weight * scale.clone().unsqueeze());
        layer.bias = layer.bias.map(|bias| bias.map(|bias| bias * scale));
    }
    layer
}
