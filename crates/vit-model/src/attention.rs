use burn::config::Config;
use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::activation::softmax;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;

use crate::Sequences;

/// A score this low leaves an attention weight of exactly zero in every float type.
const HIDDEN_SCORE: f32 = -3.0e4;

/// Configuration of an [`Attention`] layer.
#[derive(Config, Debug)]
pub struct AttentionConfig {
    /// Width of a token.
    pub hidden_size: usize,
    /// Number of heads; divides `hidden_size`.
    pub num_heads: usize,
}

impl AttentionConfig {
    /// Creates the layer with Xavier-uniform weights on `device`.
    pub fn init(&self, device: &Device) -> Attention {
        let linear = |output| {
            LinearConfig::new(self.hidden_size, output)
                .with_initializer(Initializer::XavierUniform { gain: 1.0 })
                .init(device)
        };
        Attention {
            qkv: linear(3 * self.hidden_size),
            output: linear(self.hidden_size),
            num_heads: self.num_heads,
        }
    }
}

/// Multi-head self-attention over packed sequences (Vaswani et al. 2017, section 3.2).
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, keys and values in one layer, `[hidden, 3 * hidden]`, in this order.
    pub qkv: Linear,
    /// The projection of the joined heads, `[hidden, hidden]`.
    pub output: Linear,
    /// Number of heads.
    pub num_heads: usize,
}

impl Attention {
    /// Attends within each image.
    ///
    /// # Shapes
    ///
    /// - `tokens`: `[rows, hidden]`
    /// - output: `([rows, hidden], [rows, 3 * hidden])`, the second being queries, keys and values
    pub fn forward(&self, tokens: Tensor<2>, sequences: &Sequences) -> (Tensor<2>, Tensor<2>) {
        let qkv = self.qkv.forward(tokens);
        let heads = attend(qkv.clone(), sequences, self.num_heads);
        (self.output.forward(heads), qkv)
    }
}

/// Attention of packed queries, keys and values, `[rows, 3 * hidden]` to `[rows, hidden]`: one
/// batched attention for each run of images of equal length.
fn attend(qkv: Tensor<2>, sequences: &Sequences, num_heads: usize) -> Tensor<2> {
    let groups = sequences.groups();
    let mut outputs = Vec::with_capacity(groups.len());
    for (start, images, tokens) in groups {
        let [query, key, value] = split_heads(&qkv, start, images, tokens, num_heads);
        let bias = hidden_bias(sequences, start, images, tokens, num_heads, &qkv.device());
        let options = AttentionModuleOptions::default();
        let heads = attention(query, key, value, None, bias, options);
        outputs.push(heads.swap_dims(1, 2).reshape([(images * tokens) as i32, -1]));
    }
    match outputs.len() {
        1 => outputs.remove(0),
        _ => Tensor::cat(outputs, 0),
    }
}

/// Queries, keys and values of a run of images of equal length, `[images, heads, tokens, width]`.
fn split_heads(
    qkv: &Tensor<2>,
    start: usize,
    images: usize,
    tokens: usize,
    num_heads: usize,
) -> [Tensor<4>; 3] {
    let [rows, width] = qkv.dims();
    let head_width = width / 3 / num_heads;
    let group = match images * tokens == rows {
        true => qkv.clone(),
        false => qkv.clone().narrow(0, start, images * tokens),
    };
    let split = group
        .reshape([images, tokens, 3, num_heads, head_width])
        .permute([2, 0, 3, 1, 4]);
    [0, 1, 2].map(|part| split.clone().narrow(0, part, 1).squeeze_dim::<4>(0))
}

/// What is added to the scores of hidden keys, `[images, heads, tokens, tokens]`; none where
/// every key is visible.
fn hidden_bias(
    sequences: &Sequences,
    start: usize,
    images: usize,
    tokens: usize,
    num_heads: usize,
    device: &Device,
) -> Option<Tensor<4>> {
    let visible = &sequences.visible()[start..start + images * tokens];
    if visible.iter().all(|visible| *visible) {
        return None;
    }
    let scores: Vec<f32> = visible
        .iter()
        .map(|visible| if *visible { 0.0 } else { HIDDEN_SCORE })
        .collect();
    let bias = Tensor::<1>::from_data(scores.as_slice(), device).reshape([images, 1, 1, tokens]);
    Some(bias.expand([images, num_heads, tokens, tokens]))
}

/// How much each row's image's CLS token attends to it, averaged over the heads; the weights of
/// an image sum to 1. Hidden rows get 0.
///
/// `qkv` is what [`Attention::forward`] returned, `[rows, 3 * hidden]`.
pub(crate) fn cls_attention(qkv: &Tensor<2>, sequences: &Sequences, num_heads: usize) -> Vec<f32> {
    let mut weights = Vec::with_capacity(sequences.num_rows());
    for (start, images, tokens) in sequences.groups() {
        let [query, key, _] = split_heads(qkv, start, images, tokens, num_heads);
        let width = query.dims()[3] as f32;
        let scores = query.narrow(2, 0, 1).matmul(key.transpose()) / width.sqrt();
        let visible = &sequences.visible()[start..start + images * tokens];
        let bias: Vec<f32> = visible
            .iter()
            .map(|visible| if *visible { 0.0 } else { HIDDEN_SCORE })
            .collect();
        let bias = Tensor::<1>::from_data(bias.as_slice(), &scores.device());
        let scores = scores + bias.reshape([images, 1, 1, tokens]);
        let mean = softmax(scores, 3).mean_dim(1);
        weights.extend(mean.into_data().iter::<f32>());
    }
    weights
}
