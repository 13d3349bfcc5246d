use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{
    Dropout, DropoutConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::prelude::*;
use burn::tensor::activation::gelu_approximate;

use crate::precision::cast;
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
    /// `[rows, hidden]` to `[rows, hidden]`.
    pub fn forward(&self, tokens: Tensor<2>) -> Tensor<2> {
        let inner = self.inner(tokens);
        self.dropout.forward(kernels::linear(&self.contract, inner))
    }

    /// `residual + mlp(tokens)`.
    fn forward_onto(&self, tokens: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        let inner = self.inner(tokens);
        kernels::linear_add(&self.contract, inner, Some(&self.dropout), residual)
    }

    /// `[rows, hidden]` to `[rows, mlp]`.
    fn inner(&self, tokens: Tensor<2>) -> Tensor<2> {
        match self.activation {
            Activation::Gelu => kernels::linear_gelu(&self.expand, tokens, &self.dropout),
            Activation::GeluTanh => {
                let inner = gelu_approximate(kernels::linear(&self.expand, tokens));
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
        self.attend_by(tokens, |attention, normed, tokens| {
            attention.forward_onto(normed, sequences, key_mask, tokens)
        })
    }

    /// As [`attend`](Self::attend), where every image has `count` tokens, each of which everyone's attention scores are
    /// raised for by `bias`, `[images, tokens]`.
    pub(crate) fn attend_uniformly(
        &self,
        tokens: Tensor<2>,
        count: usize,
        bias: Option<Tensor<2>>,
    ) -> (Tensor<2>, Tensor<2>) {
        self.attend_by(tokens, |attention, normed, tokens| {
            attention.forward_uniformly_onto(normed, count, bias, tokens)
        })
    }

    /// `attention` is given the norm's output, and where it can add its own to them, the tokens.
    fn attend_by(
        &self,
        tokens: Tensor<2>,
        attention: impl FnOnce(&Attention, Tensor<2>, Option<Tensor<2>>) -> (Tensor<2>, Tensor<2>),
    ) -> (Tensor<2>, Tensor<2>) {
        let normed = self.normed(&self.attention_norm, &tokens);
        let Some(scale) = &self.attention_scale else {
            return attention(&self.attention, normed, Some(tokens));
        };
        let (output, qkv) = attention(&self.attention, normed, None);
        (added(tokens, output, scale.val()), qkv)
    }

    /// The MLP half, `x + mlp(norm(x))`, on `[rows, hidden]`.
    pub fn feed_forward(&self, tokens: Tensor<2>) -> Tensor<2> {
        let normed = self.normed(&self.mlp_norm, &tokens);
        match &self.mlp_scale {
            None => self.mlp.forward_onto(normed, tokens),
            Some(scale) => added(tokens, self.mlp.forward(normed), scale.val()),
        }
    }

    /// See [`Vit::prepack`](crate::Vit::prepack).
    pub fn prepack(mut self) -> Self {
        self.attention.output = scaled(self.attention.output, self.attention_scale.take());
        self.mlp.contract = scaled(self.mlp.contract, self.mlp_scale.take());
        let norm = |norm| kernels::prepack_norm(norm, self.precision);
        self.attention_norm = norm(self.attention_norm);
        self.mlp_norm = norm(self.mlp_norm);
        let prepack = |layer| kernels::prepack(layer, self.precision);
        self.attention.qkv = prepack(self.attention.qkv);
        self.attention.output = prepack(self.attention.output);
        self.mlp.expand = prepack(self.mlp.expand);
        self.mlp.contract = prepack(self.mlp.contract);
        self
    }

    /// Normalised, and rounded to what the linear layers compute in.
    fn normed(&self, norm: &LayerNorm, tokens: &Tensor<2>) -> Tensor<2> {
        let normed = kernels::layer_norm(norm, self.layer_norm_eps, tokens.clone());
        self.precision.round(normed)
    }
}

/// `tokens + output * scale`, in the floats of the tokens.
fn added(tokens: Tensor<2>, output: Tensor<2>, scale: Tensor<1>) -> Tensor<2> {
    let dtype = tokens.dtype();
    tokens + cast(output, dtype) * cast(scale, dtype).unsqueeze()
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
