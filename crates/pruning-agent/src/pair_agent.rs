use apt_vit_model::fused::{BestMatch, computes_here, linear};
use apt_vit_model::host::{read, upload, upload_places};
use apt_vit_model::{FlopsCount, Observation, Sequences, UniformObservation};
use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::FloatDType;
use burn::tensor::activation::relu;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::matching::{Pair, matched_pairs};
use crate::similarity::{LANES, ROWS, products};

/// What a [`PairAgent`] is told of each pair beside the tokens: how alike the keys are, and the logarithms of
/// how many patches each of the two stands for.
const HINTS: usize = 3;
/// What the score takes from the hints before anything is learned: the more alike, the rather they merge
/// (ToMe's choice).
const PRIOR: [f32; HINTS] = [-4.0, 0.0, 0.0];
/// The score of a patch that has no other to go into: it stays, whatever is removed.
const CERTAIN: f32 = 1e4;

/// Is the log-odds of staying that of a patch which has no other to go into?
pub fn is_certain(score: f32) -> bool {
    score >= CERTAIN
}

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
/// It sees the token that may go, the CLS token, how far the two tokens are apart in the directions that it looks
/// in, how alike their keys are and how many patches each stands for. The score is the logarithm of the change that
/// it expects, up to a constant; what changes little goes first.
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
                hints.extend([pair.likeness, size(pair.from), size(pair.into)]);
            }
        }
        let [from, into, cls] = [from, into, cls].map(|rows| upload_places(rows, &device));
        let hints = upload(hints, [count, HINTS], &device);

        let view = linear(&self.view, observation.hidden.clone());
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
        let [width, _] = self.output.dims();
        let view = read(linear(&self.view, observation.hidden.clone()));
        let weights = Weights {
            difference: side_by_side(&read(self.difference.weight.val()), width),
            hints: read(self.hints.weight.val()),
            output: read(self.output.val()),
            prior: read(self.prior.val()),
            bias: read(self.bias.val())[0],
        };
        let of_slot = |(slot, pairs): (usize, &Vec<Pair>)| {
            Arch::new().dispatch(Judge {
                view: &view,
                weights: &weights,
                sequences,
                cls: sequences.starts()[slot],
                pairs,
            })
        };
        let judged = pairs.par_iter().enumerate().map(of_slot);
        judged.collect::<Vec<_>>().concat()
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
        let view = linear(&self.view, rows).cast(FloatDType::F32);
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

    /// The scores as logits of every row, `[rows, 2]`: class 0 keeps, class 1 removes. A row that has no
    /// other to go into is certain to stay.
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
        let certain = Tensor::full([1], CERTAIN, &device);
        let scores = match count {
            0 => certain,
            _ => Tensor::cat(vec![self.scores(observation, &pairs), certain], 0),
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

/// The weights of a [`PairAgent`] after its view.
struct Weights {
    /// A number of columns after the other, as [`side_by_side`] lays them out.
    difference: Vec<[f32; LANES]>,
    hints: Vec<f32>,
    output: Vec<f32>,
    prior: Vec<f32>,
    bias: f32,
}

/// Scores the pairs of one slot, with the widest vectors of this machine. (Not a closure, which would be
/// compiled without them.)
struct Judge<'a> {
    /// Of every row.
    view: &'a [f32],
    weights: &'a Weights,
    sequences: &'a Sequences,
    /// The row of CLS.
    cls: usize,
    pairs: &'a [Pair],
}

impl WithSimd for Judge<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f32> {
        let weights = self.weights;
        let width = weights.output.len();
        let part = |index: usize, row: usize| {
            let start = (3 * row + index) * width;
            &self.view[start..start + width]
        };
        let size = |row: usize| self.sequences.log_size(row);
        let mut inner: [Vec<f32>; ROWS] = std::array::from_fn(|_| vec![0.0; width]);
        let mut apart = inner.clone();
        let mut judged = Vec::with_capacity(self.pairs.len());
        for pairs in self.pairs.chunks(ROWS) {
            for (apart, pair) in apart.iter_mut().zip(pairs) {
                let ends = part(2, pair.from).iter().zip(part(2, pair.into));
                for (apart, (from, into)) in apart.iter_mut().zip(ends) {
                    *apart = (into - from).abs();
                }
            }
            let vectors = apart.each_ref().map(Vec::as_slice);
            for (block, columns) in weights.difference.chunks_exact(width).enumerate() {
                for (inner, products) in inner.iter_mut().zip(products(vectors, columns)) {
                    let inner = inner[block * LANES..].iter_mut().zip(products);
                    inner.for_each(|(inner, product)| *inner = product);
                }
            }
            for (inner, pair) in inner.iter_mut().zip(pairs) {
                let hints = [pair.likeness, size(pair.from), size(pair.into)];
                let sums = part(0, pair.from).iter().zip(part(1, self.cls));
                for (inner, (from, cls)) in inner.iter_mut().zip(sums) {
                    *inner += from + cls;
                }
                add_product(inner, &hints, &weights.hints);
                let mut scores = [0.0; LANES];
                let parts = inner.chunks(LANES).zip(weights.output.chunks(LANES));
                for (inner, weights) in parts {
                    let terms = inner.iter().zip(weights);
                    for (score, (inner, weight)) in scores.iter_mut().zip(terms) {
                        *score += inner.max(0.0) * weight;
                    }
                }
                let prior: f32 = hints.iter().zip(&weights.prior).map(|(a, b)| a * b).sum();
                judged.push(scores.iter().sum::<f32>() + prior + weights.bias);
            }
        }
        judged
    }
}

/// `[rows, columns]` as so many columns side by side, row by row, then the next; zeros where there are none.
fn side_by_side(matrix: &[f32], columns: usize) -> Vec<[f32; LANES]> {
    let first = (0..columns).step_by(LANES);
    let blocks = first.flat_map(|first| {
        let rows = matrix.chunks_exact(columns);
        rows.map(move |row| {
            let mut block = [0.0; LANES];
            let row = &row[first..columns.min(first + LANES)];
            block[..row.len()].copy_from_slice(row);
            block
        })
    });
    blocks.collect()
}

/// Adds `values` times `matrix`, `[values, sums]`, to `sums`.
#[inline(always)]
fn add_product(sums: &mut [f32], values: &[f32], matrix: &[f32]) {
    for (&value, row) in values.iter().zip(matrix.chunks_exact(sums.len())) {
        for (sum, weight) in sums.iter_mut().zip(row) {
            *sum += value * weight;
        }
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
    logits
        .iter_mut()
        .step_by(2)
        .for_each(|keep| *keep = CERTAIN);
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
            assert!((score(pair.from) + 4.0 * pair.likeness).abs() < 1e-5);
        }
        let judged = agent.judge(&observation, &pairs);
        for (pair, judged) in found.iter().zip(judged) {
            assert!((score(pair.from) - judged).abs() < 1e-5);
        }
        let removable = |row: usize| found.iter().any(|pair| pair.from == row);
        for row in 0..16 {
            assert_eq!(is_certain(score(row)), !removable(row), "row {row}");
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
