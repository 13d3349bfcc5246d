//! The network that judges pairs of patches.

use apt_vit_model::Precision;
use apt_vit_model::fused::{BestMatch, computes_here, linear};
use apt_vit_model::host::{read, upload, upload_places};
use apt_vit_model::{FlopsCount, Observation, UniformObservation};
use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::FloatDType;
use burn::tensor::activation::relu;

use super::pair_judge::{HINTS, Weights, judge_pairs};
use crate::matching::{Pair, matched_pairs};

/// What the score takes from the hints before anything is learned: the more similar the keys, the sooner a pair merges
/// (ToMe's choice).
const PRIOR: [f32; HINTS] = [-4.0, 0.0, 0.0];

/// Configuration of a [`PairAgent`].
#[derive(Config, Debug)]
pub struct PairAgentConfig {
    /// Width of the model's tokens.
    pub hidden_size: usize,
    /// Width within.
    pub width: usize,
}

impl PairAgentConfig {
    /// Creates it on `device`. It starts with ToMe's preference and nothing else.
    pub fn init(&self, device: &Device) -> PairAgent {
        let (hidden, width) = (self.hidden_size, self.width);
        let linear = |inputs, bias| {
            LinearConfig::new(inputs, width)
                .with_bias(bias)
                .init(device)
        };
        let prior = upload(PRIOR.to_vec(), [HINTS, 1], device);
        PairAgent {
            view: LinearConfig::new(hidden, 3 * width).init(device),
            difference: linear(width, false),
            hints: linear(HINTS, false),
            output: Param::from_tensor(Tensor::zeros([width, 1], device)),
            bias: Param::from_tensor(Tensor::zeros([1], device)),
            prior: Param::from_tensor(prior),
        }
    }
}

/// Judges pairs of patches: how much would the model's answer change if the one went into the other?
///
/// It sees the token that may go, the CLS token, the distance of the two tokens in the directions that it learned, the
/// cosine of their keys and how many patches each stands for. The score is the logarithm of the change that it expects, up
/// to a constant; what changes little goes first.
#[derive(Module, Debug)]
pub struct PairAgent {
    /// Of every token, `[hidden, 3 * width]`: as one that may go, as CLS, and the directions in which a
    /// difference counts. One layer, since all three are linear.
    pub view: Linear,
    /// Of how far the two are apart in each direction, `[width, width]`.
    pub difference: Linear,
    /// `[hints, width]`
    pub hints: Linear,
    /// `[width, 1]`
    pub output: Param<Tensor<2>>,
    /// `[1]`
    pub bias: Param<Tensor<1>>,
    /// What the score takes from the hints directly, `[hints, 1]`.
    pub prior: Param<Tensor<2>>,
}

impl PairAgent {
    /// The score of each pair, slot by slot, `[pairs]`; high where merging would cost much. `pairs` has an entry
    /// for each slot, and some pair is there.
    pub fn scores(&self, observation: &Observation<'_>, pairs: &[Vec<Pair>]) -> Tensor<1> {
        let sequences = observation.sequences;
        let device = observation.hidden.device();
        let [width, _] = self.output.dims();
        let count = pairs.iter().map(Vec::len).sum();
        let starts = sequences.starts();
        let (mut from, mut into) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut cls = Vec::with_capacity(count);
        let mut hints = Vec::with_capacity(count * HINTS);
        let size = |row: usize| sequences.log_size(row);
        for (slot, pairs) in pairs.iter().enumerate() {
            for pair in pairs {
                from.push(pair.from);
                into.push(pair.into);
                cls.push(starts[slot]);
                hints.extend([pair.similarity, size(pair.from), size(pair.into)]);
            }
        }
        let [from, into, cls] = [from, into, cls].map(|rows| upload_places(rows, &device));
        let hints = upload(hints, [count, HINTS], &device);

        let view = linear(&self.view, observation.hidden.clone(), Precision::F32);
        let part = |index: usize| view.clone().narrow(1, index * width, width);
        let apart = part(2).select(0, into) - part(2).select(0, from.clone());
        let inner = part(0).select(0, from)
            + part(1).select(0, cls)
            + self.difference.forward(apart.abs())
            + self.hints.forward(hints.clone());
        let scores = relu(inner).matmul(self.output.val()) + hints.matmul(self.prior.val());
        scores.flatten(0, 1) + self.bias.val()
    }

    /// As [`scores`](Self::scores), computed for the decision alone: no gradient goes through it.
    ///
    /// Where the device computes on this program's threads, what is computed for a pair is so little that it is done
    /// here, instead of by an operation of the backend for each step of it.
    pub fn judge(&self, observation: &Observation<'_>, pairs: &[Vec<Pair>]) -> Vec<f32> {
        if !computes_here(&observation.hidden.device()) {
            return read(self.scores(observation, pairs));
        }
        let sequences = observation.sequences;
        let view = read(linear(
            &self.view,
            observation.hidden.clone(),
            Precision::F32,
        ));
        let weights = Weights::new(
            &read(self.difference.weight.val()),
            read(self.hints.weight.val()),
            read(self.output.val()),
            read(self.prior.val()),
            read(self.bias.val())[0],
        );
        judge_pairs(&view, &weights, sequences, pairs)
    }

    /// As [`scores`](Self::scores), of every token as if it sought another, `[batch, tokens]`, of images that all have
    /// the same number of tokens. The view of the tokens is computed in their floats, the rest in 32 bits.
    pub(crate) fn scores_of_images(
        &self,
        observation: &UniformObservation,
        matches: &BestMatch,
    ) -> Tensor<2> {
        let rows = observation.hidden();
        let [batch, tokens, hidden] = rows.dims();
        let [width, _] = self.output.dims();
        let rows = rows.reshape([batch * tokens, hidden]);
        let device = rows.device();
        let view = linear(&self.view, rows, Precision::F32).cast(FloatDType::F32);
        let part = |index: usize| view.clone().narrow(1, index * width, width);

        // The row of what each token would go into.
        let starts = Tensor::<1, Int>::arange(0..batch as i64, &device) * tokens as i64;
        let into = matches.into.clone() + starts.reshape([batch, 1]);
        let apart = part(2).select(0, into.flatten(0, 1)) - part(2);
        let of_images = |rows: Tensor<2>| rows.reshape([batch, tokens, width]);
        let cls = of_images(part(1)).narrow(1, 0, 1);

        let own = match &observation.sizes {
            Some(sizes) => sizes.clone().log(),
            None => Tensor::zeros([batch, tokens], &device),
        };
        let others = own.clone().gather(1, matches.into.clone());
        // Where a token seeks none, the similarity is not finite, and its score does not count.
        let similarity = matches.similarity.clone().clamp_min(-1.0);
        let hints = Tensor::stack::<3>(vec![similarity, own, others], 2);
        let hints = hints.reshape([batch * tokens, HINTS]);

        let inner =
            part(0) + self.difference.forward(apart.abs()) + self.hints.forward(hints.clone());
        let inner = relu(of_images(inner) + cls).reshape([batch * tokens, width]);
        let scores = inner.matmul(self.output.val()) + hints.matmul(self.prior.val());
        scores.reshape([batch, tokens]) + self.bias.val().unsqueeze()
    }

    /// The scores as logits of every row, `[rows, 2]`: class 0 keeps, class 1 removes. Rows that have no other to go
    /// into have zeros.
    pub fn logits(&self, observation: &Observation<'_>) -> Tensor<2> {
        let pairs = matched_pairs(observation);
        let count: usize = pairs.iter().map(Vec::len).sum();
        let device = observation.hidden.device();
        // The place of each row's score among the pairs'; the others take the one after the last.
        let mut places = vec![count; observation.sequences.num_rows()];
        for (place, pair) in pairs.iter().flatten().enumerate() {
            places[pair.from] = place;
        }
        let places = upload_places(places, &device);
        let without = Tensor::zeros([1], &device);
        let scores = match count {
            0 => without,
            _ => Tensor::cat(vec![self.scores(observation, &pairs), without], 0),
        };
        let keep: Tensor<2> = scores.select(0, places).unsqueeze_dim(1);
        let remove = keep.zeros_like();
        Tensor::cat(vec![keep, remove], 1)
    }

    /// What it computes for one image of `tokens` tokens, `prefix` of them before the patches, the matching
    /// included; `head_width` is that of the keys.
    pub fn flops(&self, tokens: usize, prefix: usize, head_width: usize) -> FlopsCount {
        let of = |linear: &Linear| linear.weight.dims().iter().product::<usize>();
        let [width, _] = self.output.dims();
        let patches = tokens.saturating_sub(prefix);
        let pairs = patches / 2;
        let matching = pairs * (patches - pairs) * head_width;
        let each = of(&self.difference) + of(&self.hints) + width + HINTS;
        2 * (tokens * of(&self.view) + pairs * each + matching) as u64
    }
}

/// What pairs score as logits of `rows` rows, `[rows, 2]`, as [`PairAgent::logits`] has it.
pub(crate) fn logits_of(
    pairs: &[Vec<Pair>],
    scores: &[f32],
    rows: usize,
    device: &Device,
) -> Tensor<2> {
    let mut logits = vec![0.0; 2 * rows];
    for (pair, &score) in pairs.iter().flatten().zip(scores) {
        logits[2 * pair.from] = score;
    }
    upload(logits, [rows, 2], device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::observed;
    use apt_vit_model::TokenBatch;
    use burn::tensor::{Distribution, Tolerance};
    use proptest::prelude::*;

    fn random(shape: [usize; 3], device: &Device) -> Tensor<3> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn before_it_has_learned_the_most_alike_go_first() {
        let device = Device::default();
        device.seed(3);
        let agent = PairAgentConfig::new(12, 8).init(&device);
        let batch = TokenBatch::full(random([2, 8, 12], &device));
        let keys = TokenBatch::full(random([2, 8, 12], &device)).tokens;
        let observation = observed(&batch, keys);
        let pairs = matched_pairs(&observation);
        let logits: Vec<f32> = agent
            .logits(&observation)
            .into_data()
            .iter::<f32>()
            .collect();
        let score = |row: usize| logits[2 * row] - logits[2 * row + 1];
        let found: Vec<&Pair> = pairs.iter().flatten().collect();
        assert_eq!(found.len(), 6);
        for pair in &found {
            assert!((score(pair.from) + 4.0 * pair.similarity).abs() < 1e-5);
        }
        let judged = agent.judge(&observation, &pairs);
        for (pair, judged) in found.iter().zip(judged) {
            assert!((score(pair.from) - judged).abs() < 1e-5);
        }
        let removable = |row: usize| found.iter().any(|pair| pair.from == row);
        for row in (0..16).filter(|&row| !removable(row)) {
            assert_eq!(score(row), 0.0, "row {row}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn host_and_tensor_forms_judge_alike(
            seed in 0u64..1000,
            images in 1usize..4,
            tokens in 3usize..14,
            hidden in 2usize..20,
            width in 1usize..20,
        ) {
            let device = Device::default();
            device.seed(seed);
            let mut agent = PairAgentConfig::new(hidden, width).init(&device);
            agent.output = Param::from_tensor(Tensor::ones([width, 1], &device));
            let shape = [images, tokens, hidden];
            let keep: Vec<bool> = (0..images * tokens)
                .map(|row| row % tokens == 0 || (row as u64 + seed) % 4 != 1)
                .collect();
            let batch = TokenBatch::full(random(shape, &device)).drop_rows(&keep);
            let keys = TokenBatch::full(random(shape, &device)).drop_rows(&keep).tokens;
            let observation = observed(&batch, keys);
            let pairs = matched_pairs(&observation);
            if pairs.iter().any(|pairs| !pairs.is_empty()) {
                let judged = agent.judge(&observation, &pairs);
                let scores = agent.scores(&observation, &pairs).into_data();
                for (score, judged) in scores.iter::<f32>().zip(judged) {
                    prop_assert!((score - judged).abs() < 1e-4 * (1.0 + score.abs()));
                }
            }
        }
    }

    #[test]
    fn an_image_is_judged_alone_whatever_stands_beside_it() {
        let device = Device::default();
        device.seed(5);
        let mut agent = PairAgentConfig::new(12, 8).init(&device);
        agent.output = Param::from_tensor(Tensor::ones([8, 1], &device));
        let (tokens, keys) = (random([3, 9, 12], &device), random([3, 9, 12], &device));
        let keep: Vec<bool> = (0..27).map(|row| row % 9 == 0 || row % 4 != 1).collect();
        let all = TokenBatch::full(tokens.clone()).drop_rows(&keep);
        let all_keys = TokenBatch::full(keys.clone()).drop_rows(&keep).tokens;
        let observation = observed(&all, all_keys);
        let together = agent.logits(&observation);
        let pairs = matched_pairs(&observation);
        let logits: Vec<f32> = together.to_data().iter::<f32>().collect();
        for (pair, judged) in pairs
            .iter()
            .flatten()
            .zip(agent.judge(&observation, &pairs))
        {
            assert!((logits[2 * pair.from] - judged).abs() < 1e-4);
        }
        for slot in 0..3 {
            let image = all.sequences.image(slot);
            let part = |tensor: &Tensor<3>| tensor.clone().narrow(0, image, 1);
            let keep = &keep[9 * image..9 * (image + 1)];
            let alone = TokenBatch::full(part(&tokens)).drop_rows(keep);
            let keys = TokenBatch::full(part(&keys)).drop_rows(keep).tokens;
            let alone = agent.logits(&observed(&alone, keys));
            let start = all.sequences.starts()[slot];
            let rows = together.clone().narrow(0, start, alone.dims()[0]);
            let tolerance = Tolerance::<f32>::absolute(1e-4);
            rows.into_data()
                .assert_approx_eq(&alone.into_data(), tolerance);
        }
    }
}
