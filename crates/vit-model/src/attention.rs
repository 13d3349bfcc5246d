use burn::config::Config;
use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::prelude::*;
use rayon::prelude::*;

use crate::host::read;
use crate::precision::widen;
use crate::{Precision, Sequences, kernels};

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
    /// - `key_mask`: `[rows]`, what each row weighs as a key (see
    ///   [`TokenBatch::key_mask`](crate::TokenBatch::key_mask))
    /// - `residual`: `[rows, hidden]`, added to the output
    /// - `precision`: what the two linear layers are computed in
    /// - output: `([rows, hidden], [rows, 3 * hidden])`, the second being queries, keys and values
    pub fn forward(
        &self,
        tokens: Tensor<2>,
        sequences: &Sequences,
        key_mask: Option<&Tensor<1>>,
        residual: Option<Tensor<2>>,
        precision: Precision,
    ) -> (Tensor<2>, Tensor<2>) {
        let (heads, qkv) = self.heads(tokens, sequences, key_mask, precision);
        (self.project(heads, residual, precision), qkv)
    }

    /// As [`forward`](Self::forward), where every image has `count` tokens. `bias`, `[images, count]`, is added
    /// to everyone's attention scores for each of them.
    pub(crate) fn forward_uniformly(
        &self,
        tokens: Tensor<2>,
        count: usize,
        bias: Option<Tensor<2>>,
        residual: Option<Tensor<2>>,
        precision: Precision,
    ) -> (Tensor<2>, Tensor<2>) {
        let qkv = kernels::linear(&self.qkv, tokens, precision);
        let heads = kernels::uniform_attention(qkv.clone(), bias, count, self.num_heads);
        (self.project(heads, residual, precision), qkv)
    }

    /// The heads' projection, onto `residual` where there is one.
    fn project(
        &self,
        heads: Tensor<2>,
        residual: Option<Tensor<2>>,
        precision: Precision,
    ) -> Tensor<2> {
        match residual {
            Some(residual) => kernels::linear_add(&self.output, heads, None, residual, precision),
            None => kernels::linear(&self.output, heads, precision),
        }
    }

    /// The heads side by side, `[rows, hidden]`, and queries, keys and values.
    fn heads(
        &self,
        tokens: Tensor<2>,
        sequences: &Sequences,
        key_mask: Option<&Tensor<1>>,
        precision: Precision,
    ) -> (Tensor<2>, Tensor<2>) {
        let qkv = kernels::linear(&self.qkv, tokens, precision);
        let (queries, spans) = (qkv.clone(), sequences.spans());
        let heads = match key_mask {
            None => kernels::attention(queries, spans, self.num_heads),
            Some(mask) => kernels::masked_attention(queries, mask.clone(), spans, self.num_heads),
        };
        (heads, qkv)
    }
}

/// How much each row's image's CLS token attends to it, averaged over the heads; the weights of
/// an image sum to 1. Hidden rows get 0, and so do those that weigh 0 as keys.
///
/// `qkv` is what [`Attention::forward`] returned, `[rows, 3 * hidden]`.
pub(crate) fn cls_attention(
    qkv: &Tensor<2>,
    sequences: &Sequences,
    key_mask: Option<&Tensor<1>>,
    num_heads: usize,
) -> Vec<f32> {
    let scores = kernels::cls_scores(
        widen(qkv.clone()),
        sequences.cls_row_of_each_row(),
        num_heads,
    );
    let scores = read(scores);

    let bias = sequences.bias();
    let key_mask: Option<Vec<f32>> = key_mask.map(|mask| read(mask.clone()));
    let key = |row: usize| key_mask.as_ref().map_or(1.0, |mask| mask[row]);
    let spans: Vec<&[usize]> = sequences.starts().windows(2).collect();
    let of_span = |span: &&[usize]| {
        let (first, end) = (span[0], span[1]);
        let mut mean = vec![0.0; end - first];
        let visible = (first..end).filter(|&row| sequences.visible()[row] && key(row) > 0.0);
        for head in 0..num_heads {
            let score = |row: usize| {
                let bias = bias.as_ref().map_or(0.0, |bias| bias[row]);
                scores[row * num_heads + head] + bias
            };
            let highest = visible.clone().map(score).fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<(usize, f32)> = visible
                .clone()
                .map(|row| (row, key(row) * (score(row) - highest).exp()))
                .collect();
            let sum: f32 = weights.iter().map(|(_, weight)| weight).sum();
            for (row, weight) in weights {
                mean[row - first] += weight / (sum * num_heads as f32);
            }
        }
        mean
    };
    spans.par_iter().map(of_span).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenBatch;
    use burn::tensor::Distribution;

    #[test]
    fn cls_attention_is_the_first_row_of_the_softmax() {
        let device = Device::default();
        let (heads, width, tokens) = (2, 3, 5);
        let qkv = Tensor::<3>::random(
            [2, tokens, 3 * heads * width],
            Distribution::Normal(0.0, 1.0),
            &device,
        );
        let values: Vec<f32> = qkv.to_data().iter::<f32>().collect();
        let hidden = [3, 9];
        let keep: Vec<bool> = (0..2 * tokens).map(|row| !hidden.contains(&row)).collect();
        let batch = TokenBatch::full(qkv).hide(&keep);
        let key = |row: usize| [1.0, 0.5, 0.0, 1.0, 0.2][row % tokens];
        let key_mask: Vec<f32> = (0..2 * tokens).map(key).collect();
        let key_mask = Tensor::from_data(key_mask.as_slice(), &device);
        let weights = cls_attention(&batch.tokens, &batch.sequences, Some(&key_mask), heads);

        let value = |row: usize, column: usize| values[row * 3 * heads * width + column];
        for image in 0..2 {
            let rows = image * tokens..(image + 1) * tokens;
            let mut expected = vec![0.0; tokens];
            for head in 0..heads {
                let score = |row: usize| {
                    let columns = head * width..(head + 1) * width;
                    let products = columns.map(|column| {
                        value(image * tokens, column) * value(row, heads * width + column)
                    });
                    let score = products.sum::<f32>() / (width as f32).sqrt();
                    if keep[row] {
                        key(row) * score.exp()
                    } else {
                        0.0
                    }
                };
                let sum: f32 = rows.clone().map(score).sum();
                for (expected, row) in expected.iter_mut().zip(rows.clone()) {
                    *expected += score(row) / sum / heads as f32;
                }
            }
            for (weight, expected) in weights[rows].iter().zip(&expected) {
                assert!((weight - expected).abs() < 1e-6, "{weights:?} {expected:?}");
            }
        }
    }
}
