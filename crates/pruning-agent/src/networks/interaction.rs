//! The published network: a token and its interaction with CLS.

use apt_vit_model::fused::compiles_for_shapes;
use apt_vit_model::host::upload_places;
use apt_vit_model::{FlopsCount, Sequences};
use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;

use super::predictor::slot_of_each_row;

/// Configuration of a [`PruningAgent`].
#[derive(Config, Debug)]
pub struct PruningAgentConfig {
    /// Width of the model's tokens.
    pub hidden_size: usize,
}

impl PruningAgentConfig {
    /// Creates an agent on `device`, initialised as PyTorch initialises a Linear:
    /// uniform within `1 / sqrt(inputs)`.
    pub fn init(&self, device: &Device) -> PruningAgent {
        let d = self.hidden_size;
        PruningAgent {
            query: LinearConfig::new(d, d).init(device),
            key: LinearConfig::new(d, d).init(device),
            value: LinearConfig::new(d, d).init(device),
            fc: LinearConfig::new(2 * d, 2).init(device),
        }
    }
}

/// The published agent: it looks at a token and at how it interacts with the CLS token, and says
/// whether the token is to go.
///
/// With `q = Wq h_cls`, `k = Wk h` and `v = Wv h`, its logits for a token are `Wf [v ; q * k]`:
/// class 0 keeps the token, class 1 removes it.
#[derive(Module, Debug)]
pub struct PruningAgent {
    /// `[hidden, hidden]`, of the CLS token.
    pub query: Linear,
    /// `[hidden, hidden]`, of the token.
    pub key: Linear,
    /// `[hidden, hidden]`, of the token.
    pub value: Linear,
    /// `[2 * hidden, 2]`
    pub fc: Linear,
}

impl PruningAgent {
    /// The logits of some tokens, each given with its image's CLS token.
    ///
    /// # Shapes
    ///
    /// - `cls`, `tokens`: `[rows, hidden]`
    /// - output: `[rows, 2]`
    pub fn logits_of(&self, cls: Tensor<2>, tokens: Tensor<2>) -> Tensor<2> {
        let interaction = self.query.forward(cls) * self.key.forward(tokens.clone());
        let value = self.value.forward(tokens);
        self.fc.forward(Tensor::cat(vec![value, interaction], 1))
    }

    /// The logits of every token of a batch.
    ///
    /// The logits are linear in the token, so that everything which does not depend on it is
    /// multiplied out first: a matrix `[hidden, 2]` for each image. This gives what
    /// [`logits_of`](Self::logits_of) gives, up to rounding, and costs next to nothing.
    ///
    /// # Shapes
    ///
    /// - `hidden`: `[rows, hidden]`
    /// - output: `[rows, 2]`
    pub fn logits(&self, hidden: Tensor<2>, sequences: &Sequences) -> Tensor<2> {
        let [_, d] = hidden.dims();
        let images = sequences.batch();
        let starts = sequences.starts();
        let cls_rows = upload_places(starts[..images].iter().copied(), &hidden.device());
        let (matrix, bias) = self.multiplied_out(hidden.clone().select(0, cls_rows));

        if compiles_for_shapes(&hidden.device()) {
            // One product for all rows, instead of one for each number of tokens.
            let slots = slot_of_each_row(sequences, &hidden.device());
            let products = hidden.unsqueeze_dim::<3>(2) * matrix.select(0, slots.clone());
            return (products.sum_dim(1) + bias.select(0, slots)).squeeze_dim(1);
        }
        let mut logits = Vec::new();
        let mut slot = 0;
        for (start, count, tokens) in sequences.groups() {
            let rows = hidden.clone().narrow(0, start, count * tokens);
            let rows = rows.reshape([count, tokens, d]);
            let group = rows.matmul(matrix.clone().narrow(0, slot, count))
                + bias.clone().narrow(0, slot, count);
            logits.push(group.reshape([count * tokens, 2]));
            slot += count;
        }
        Tensor::cat(logits, 0)
    }

    /// As [`logits`](Self::logits), of images that all have the same number of tokens, `[batch, tokens, hidden]`:
    /// `[batch, tokens, 2]`.
    pub(crate) fn logits_of_images(&self, hidden: Tensor<3>) -> Tensor<3> {
        let cls = hidden.clone().narrow(1, 0, 1).squeeze_dim(1);
        let (matrix, bias) = self.multiplied_out(cls);
        hidden.matmul(matrix) + bias
    }

    /// What the tokens of each image are multiplied by, `[images, hidden, 2]`, and what is added, `[images, 1, 2]`, given
    /// their CLS tokens, `[images, hidden]`.
    fn multiplied_out(&self, cls: Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        let [images, d] = cls.dims();
        let device = cls.device();
        let query = self.query.forward(cls);
        let fc = self.fc.weight.val();
        let of_value = fc.clone().narrow(0, 0, d);
        let of_interaction = fc.narrow(0, d, d);

        // [images, hidden, 2]: the part of Wf that weighs each image's interaction.
        let weighted = query.unsqueeze_dim::<3>(2) * of_interaction.unsqueeze_dim::<3>(0);
        let by_output = weighted.clone().swap_dims(0, 1).reshape([d, 2 * images]);
        let matrix = self.key.weight.val().matmul(by_output);
        let matrix = matrix.reshape([d, images, 2]).swap_dims(0, 1);
        let value = self.value.weight.val().matmul(of_value.clone());
        let matrix = matrix + value.unsqueeze_dim::<3>(0);

        // [images, 1, 2]: what the biases add.
        let mut bias = Tensor::<3>::zeros([images, 1, 2], &device);
        if let Some(key_bias) = &self.key.bias {
            let key_bias = key_bias.val().reshape([1, d, 1]);
            bias = bias + (weighted * key_bias).sum_dim(1);
        }
        if let Some(value_bias) = &self.value.bias {
            let value_bias = value_bias.val().reshape([1, d]);
            bias = bias + value_bias.matmul(of_value).unsqueeze_dim::<3>(0);
        }
        if let Some(fc_bias) = &self.fc.bias {
            bias = bias + fc_bias.val().reshape([1, 1, 2]);
        }
        (matrix, bias)
    }
}

/// What [`PruningAgent::logits`] computes for one image that has `tokens` tokens (CLS counted).
pub fn agent_flops(hidden_size: usize, tokens: usize) -> FlopsCount {
    let d = hidden_size as u64;
    // The query, the folded key, the folded value; then two outputs for each token.
    2 * d * d + 4 * d * d + 4 * d * d + 4 * tokens as u64 * d
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::TokenBatch;
    use burn::tensor::{Distribution, Tolerance};

    #[test]
    fn the_multiplied_out_form_gives_the_published_logits() {
        let device = Device::default();
        device.seed(3);
        let agent = PruningAgentConfig::new(12).init(&device);
        let tokens = Tensor::<3>::random([3, 7, 12], Distribution::Normal(0.0, 1.0), &device);
        let keep: Vec<bool> = (0..21).map(|row| row % 7 == 0 || row % 5 != 1).collect();
        for batch in [
            TokenBatch::full(tokens.clone()),
            TokenBatch::full(tokens).drop_rows(&keep),
        ] {
            let sequences = &batch.sequences;
            let rows = sequences.cls_row_of_each_row();
            let rows: Vec<i64> = rows.into_iter().map(|row| row as i64).collect();
            let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &device);
            let cls = batch.tokens.clone().select(0, rows);
            let published = agent.logits_of(cls, batch.tokens.clone());
            let folded = agent.logits(batch.tokens.clone(), sequences);
            let tolerance = Tolerance::<f32>::absolute(1e-5);
            folded
                .into_data()
                .assert_approx_eq(&published.into_data(), tolerance);
        }
    }
}
