//! The network that scores single tokens by themselves and by their image's mean.

use apt_vit_model::Precision;
use apt_vit_model::fused::{layer_norm, linear, linear_gelu};
use apt_vit_model::host::{read, upload, upload_places};
use apt_vit_model::{FlopsCount, Observation, Sequences};
use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;
use rayon::prelude::*;

use crate::similarity::nearest;

/// What a predictor with [`hints`](TokenPredictorConfig::hints) is told of each token beside the token itself.
const HINTS: usize = 3;
/// What the logits (keep, remove) take from attention, similarity and size before anything is learned: what CLS attends to
/// stays (EViT's choice).
const PRIOR: [[f32; 2]; HINTS] = [[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]];

/// Of the norm before it, as in DynamicViT.
const EPSILON: f64 = 1e-5;

/// Configuration of a [`TokenPredictor`].
#[derive(Config, Debug)]
pub struct TokenPredictorConfig {
    /// Width of the model's tokens.
    pub hidden_size: usize,
    /// Width within; DynamicViT's is the tokens'. A multiple of 4.
    pub width: usize,
    /// Is it also told CLS's attention to the token, the token's similarity to the most similar one, and how many patches
    /// it stands for? DynamicViT's is not.
    #[config(default = "false")]
    pub hints: bool,
}

impl TokenPredictorConfig {
    /// A network a third as wide as the tokens, in whole fours.
    pub fn narrow(hidden_size: usize) -> Self {
        Self::new(hidden_size, (hidden_size / 3 / 4).max(1) * 4)
    }

    /// Creates it on `device`, initialised as PyTorch initialises a Linear.
    pub fn init(&self, device: &Device) -> TokenPredictor {
        let width = self.width;
        let hints = if self.hints { HINTS } else { 0 };
        let layer = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        TokenPredictor {
            norm: LayerNormConfig::new(self.hidden_size)
                .with_epsilon(EPSILON)
                .init(device),
            input: layer(self.hidden_size, width),
            first: layer(width + hints, width / 2),
            second: layer(width / 2, width / 4),
            output: layer(width / 4, 2),
            prior: self
                .hints
                .then(|| Param::from_tensor(upload(PRIOR.concat(), [HINTS, 2], device))),
            hints: self.hints,
        }
    }
}

/// The prediction module of DynamicViT (Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic
/// Token Sparsification", 2021, section 3.2): half of what it makes of each token is averaged over the
/// image's patches, and from both halves an MLP says whether the token is to stay.
///
/// Class 0 keeps the token, class 1 removes it, as an agent's.
#[derive(Module, Debug)]
pub struct TokenPredictor {
    /// Over each token.
    pub norm: LayerNorm,
    /// `[hidden, width]`
    pub input: Linear,
    /// `[width, width / 2]`, with hints beside.
    pub first: Linear,
    /// `[width / 2, width / 4]`
    pub second: Linear,
    /// `[width / 4, 2]`
    pub output: Linear,
    /// With hints, what the logits take from them directly, `[hints, 2]`.
    pub prior: Option<Param<Tensor<2>>>,
    hints: bool,
}

impl TokenPredictor {
    /// Does it see more than the tokens?
    pub fn has_hints(&self) -> bool {
        self.hints
    }

    /// The logits of every token, `[rows, 2]`.
    pub fn logits(&self, observation: &Observation<'_>) -> Tensor<2> {
        let sequences = observation.sequences;
        let none = DropoutConfig::new(0.0).init();
        let normed = layer_norm(&self.norm, EPSILON, observation.hidden.clone());
        let inner = linear_gelu(&self.input, normed, &none, Precision::F32);
        let [rows, width] = inner.dims();
        let (half, rest) = (width / 2, width - width / 2);
        let means = image_means(inner.clone().narrow(1, half, rest), sequences);
        let mut parts = vec![inner.narrow(1, 0, half), each(means, sequences)];
        let hints = self.hints.then(|| {
            let hints = hints(observation);
            upload(hints, [rows, HINTS], &parts[0].device())
        });
        parts.extend(hints.clone());
        let first = linear_gelu(&self.first, Tensor::cat(parts, 1), &none, Precision::F32);
        let logits = self
            .output
            .forward(linear_gelu(&self.second, first, &none, Precision::F32));
        match hints.zip(self.prior.as_ref()) {
            Some((hints, prior)) => logits + hints.matmul(prior.val()),
            None => logits,
        }
    }

    /// As [`logits`](Self::logits), computed for the decision alone: no gradient goes through it.
    ///
    /// What lies between its layers is so little that it is done here, image by image, instead of by an operation
    /// of the backend for each step of it. For devices that compute in this program's memory: others would
    /// fetch the tokens for it.
    pub fn judge(&self, observation: &Observation<'_>) -> Tensor<2> {
        let device = observation.hidden.device();
        let none = DropoutConfig::new(0.0).init();
        let normed = layer_norm(&self.norm, EPSILON, observation.hidden.clone());
        let inner = linear_gelu(&self.input, normed, &none, Precision::F32);
        let [rows, width] = inner.dims();
        let (hints, told) = if self.hints {
            (hints(observation), HINTS)
        } else {
            (Vec::new(), 0)
        };
        let seen = seen(&read(inner), width, &hints, told, observation.sequences);
        let seen = upload(seen, [rows, width + told], &device);
        let first = linear_gelu(&self.first, seen, &none, Precision::F32);
        let second = linear_gelu(&self.second, first, &none, Precision::F32);
        let mut logits = read(linear(&self.output, second, Precision::F32));
        if let Some(prior) = &self.prior {
            let prior = read(prior.val());
            for (logits, hints) in logits.chunks_exact_mut(2).zip(hints.chunks_exact(HINTS)) {
                for (hint, prior) in hints.iter().zip(prior.chunks_exact(2)) {
                    logits[0] += hint * prior[0];
                    logits[1] += hint * prior[1];
                }
            }
        }
        upload(logits, [rows, 2], &device)
    }

    /// What it computes for one image of `tokens` tokens.
    pub fn flops(&self, tokens: usize, head_width: usize) -> FlopsCount {
        let of = |linear: &Linear| linear.weight.dims().iter().product::<usize>();
        let linears = of(&self.input) + of(&self.first) + of(&self.second) + of(&self.output);
        let hints = if self.hints {
            // CLS's attention, and the similarity of each to each.
            self.input.weight.dims()[0] + tokens * head_width
        } else {
            0
        };
        2 * (tokens * (linears + hints)) as u64
    }
}

/// Row by row, what the layers after the first see: the first half of what `inner`, `[rows, width]`, makes of the
/// row, the mean of the other halves of its image's visible patches, and its `hints`, `[rows, told]`.
fn seen(
    inner: &[f32],
    width: usize,
    hints: &[f32],
    told: usize,
    sequences: &Sequences,
) -> Vec<f32> {
    let half = width / 2;
    let mut seen = vec![0.0; sequences.num_rows() * (width + told)];
    let mut images = Vec::with_capacity(sequences.batch());
    let mut rest = seen.as_mut_slice();
    for span in sequences.starts().windows(2) {
        let (image, after) = rest.split_at_mut((span[1] - span[0]) * (width + told));
        images.push((span[0]..span[1], image));
        rest = after;
    }
    images.into_par_iter().for_each(|(span, image)| {
        let patches = span.clone().skip(sequences.prefix());
        let (mut mean, mut count) = (vec![0.0; width - half], 0.0f32);
        for row in patches.filter(|&row| sequences.visible()[row]) {
            count += 1.0;
            let values = &inner[row * width + half..(row + 1) * width];
            let sums = mean.iter_mut().zip(values);
            sums.for_each(|(sum, value)| *sum += value);
        }
        mean.iter_mut().for_each(|sum| *sum /= count.max(1.0));
        for (row, seen) in span.zip(image.chunks_exact_mut(width + told)) {
            seen[..half].copy_from_slice(&inner[row * width..][..half]);
            seen[half..width].copy_from_slice(&mean);
            seen[width..].copy_from_slice(&hints[row * told..][..told]);
        }
    });
    seen
}

/// The mean of each slot's visible patches, `[slots, width]`.
fn image_means(values: Tensor<2>, sequences: &Sequences) -> Tensor<2> {
    let [rows, width] = values.dims();
    let (slots, device) = (sequences.batch(), values.device());
    let mut shares = vec![0.0f32; rows];
    for span in sequences.starts().windows(2) {
        let patches = span[0] + sequences.prefix()..span[1];
        let patches = patches.filter(|&row| sequences.visible()[row]);
        let patches: Vec<usize> = patches.collect();
        for &row in &patches {
            shares[row] = 1.0 / patches.len() as f32;
        }
    }
    let shared = values * upload(shares, [rows, 1], &device);
    let zeros = Tensor::zeros([slots, width], &device);
    let slots = slot_of_each_row(sequences, &device);
    zeros.select_assign(0, slots, shared, IndexingUpdateOp::Add)
}

/// What is said of each slot, for each of its rows.
fn each(of_slots: Tensor<2>, sequences: &Sequences) -> Tensor<2> {
    let slots = slot_of_each_row(sequences, &of_slots.device());
    of_slots.select(0, slots)
}

pub(super) fn slot_of_each_row(sequences: &Sequences, device: &Device) -> Tensor<1, Int> {
    let starts = sequences.starts();
    let spans = starts.windows(2).enumerate();
    let slots = spans.flat_map(|(slot, span)| std::iter::repeat_n(slot, span[1] - span[0]));
    upload_places(slots, device)
}

/// Per row: the logarithm of CLS's attention to it, in multiples of the mean; its similarity to the most similar patch of
/// its image; and the logarithm of its size.
fn hints(observation: &Observation<'_>) -> Vec<f32> {
    let sequences = observation.sequences;
    let starts = sequences.starts();
    let spans: Vec<&[usize]> = starts.windows(2).collect();
    let of_span = |span: &&[usize]| -> Vec<f32> {
        let first = span[0] + sequences.prefix();
        let patches = first..span[1];
        let patches: Vec<usize> = patches.filter(|&row| sequences.visible()[row]).collect();
        let mut similarity = vec![0.0; span[1] - span[0]];
        if let Some(keys) = &observation.keys {
            for (&row, nearest) in patches.iter().zip(nearest(keys, &patches, &patches)) {
                similarity[row - span[0]] = nearest.map_or(0.0, |(cosine, _)| cosine);
            }
        }
        let rows = span[0]..span[1];
        rows.flat_map(|row| {
            let attention = observation.cls_attention.as_ref();
            let attention = attention.map_or(0.0, |attention| {
                let times = attention[row] * (patches.len() + 1) as f32;
                times.max(1e-3).ln()
            });
            [
                attention,
                similarity[row - span[0]],
                sequences.log_size(row),
            ]
        })
        .collect()
    };
    let hints: Vec<Vec<f32>> = spans.par_iter().map(of_span).collect();
    hints.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::observed;
    use apt_vit_model::TokenBatch;
    use burn::tensor::{Distribution, Tolerance};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn host_and_tensor_forms_judge_alike(
            seed in 0u64..1000,
            images in 1usize..4,
            tokens in 2usize..12,
            hidden in 2usize..20,
            quarter in 1usize..5,
            hints: bool,
        ) {
            let device = Device::default();
            device.seed(seed);
            let config = TokenPredictorConfig::new(hidden, 4 * quarter).with_hints(hints);
            let predictor = config.init(&device);
            let random = || {
                let normal = Distribution::Normal(0.0, 1.0);
                Tensor::<3>::random([images, tokens, hidden], normal, &device)
            };
            let keep: Vec<bool> = (0..images * tokens)
                .map(|row| row % tokens == 0 || (row as u64 + seed) % 3 != 1)
                .collect();
            let batch = TokenBatch::full(random()).drop_rows(&keep);
            let keys = TokenBatch::full(random()).drop_rows(&keep).tokens;
            let observation = observed(&batch, keys);
            let tolerance = Tolerance::<f32>::rel_abs(1e-4, 1e-4);
            let judged = predictor.judge(&observation).into_data();
            judged.assert_approx_eq(&predictor.logits(&observation).into_data(), tolerance);
        }
    }

    #[test]
    fn an_image_is_judged_alone_whatever_stands_beside_it() {
        let device = Device::default();
        device.seed(5);
        let random = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (tokens, keys) = (random([3, 7, 12]), random([3, 7, 12]));
        let keep: Vec<bool> = (0..21).map(|row| row % 7 == 0 || row % 4 != 1).collect();
        let all = TokenBatch::full(tokens.clone()).drop_rows(&keep);
        let all_keys = TokenBatch::full(keys.clone()).drop_rows(&keep).tokens;
        let near = |a: Tensor<2>, b: Tensor<2>| {
            let tolerance = Tolerance::<f32>::absolute(1e-5);
            a.into_data().assert_approx_eq(&b.into_data(), tolerance);
        };
        for hints in [false, true] {
            let config = TokenPredictorConfig::new(12, 8).with_hints(hints);
            let predictor = config.init(&device);
            let logits = |batch: &TokenBatch, keys| predictor.logits(&observed(batch, keys));
            let together = logits(&all, all_keys.clone());
            let judged = predictor.judge(&observed(&all, all_keys.clone()));
            near(judged, together.clone());
            for slot in 0..3 {
                let image = all.sequences.image(slot);
                let part = |tensor: &Tensor<3>| tensor.clone().narrow(0, image, 1);
                let keep = &keep[7 * image..7 * (image + 1)];
                let alone = TokenBatch::full(part(&tokens)).drop_rows(keep);
                let keys = TokenBatch::full(part(&keys)).drop_rows(keep).tokens;
                let alone = logits(&alone, keys);
                let start = all.sequences.starts()[slot];
                near(together.clone().narrow(0, start, alone.dims()[0]), alone);
            }
        }
    }
}
