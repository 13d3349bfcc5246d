//! What a gate sees of an image: cheap statistics of its tokens in one block.

use apt_vit_model::Observation;
use apt_vit_model::host::read;
use rayon::prelude::*;

use crate::matching::Pair;

/// Quantiles that stand for a distribution, its mean beside them.
const QUANTILES: [f64; 7] = [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98];
const OF_DISTRIBUTION: usize = QUANTILES.len() + 1;
/// Of so many patches, those that CLS attends to most, their share of its attention is told.
const MOST_ATTENDED: [usize; 4] = [1, 4, 16, 48];
/// What is told beside the two: five distributions, and numbers.
const OTHERS: usize = 5 * OF_DISTRIBUTION + MOST_ATTENDED.len() + 11;
/// Where a logarithm would be of nothing.
const LEAST: f32 = 1e-9;

/// How many numbers a decision point tells of an image, of a model of this width.
pub fn feature_count(hidden_size: usize) -> usize {
    2 * hidden_size + OTHERS
}

/// Per slot: the CLS token, the mean of the patches, and statistics of the similarity of matched pairs, of CLS's attention,
/// and of the tokens' norms and distances. `pairs` are those of the observation, per slot. It needs the keys and CLS's
/// attention. Masked tokens do not count.
pub(crate) fn image_features(observation: &Observation<'_>, pairs: &[Vec<Pair>]) -> Vec<Vec<f32>> {
    let [_, width] = observation.hidden.dims();
    let hidden = read(observation.hidden.clone());
    let spans: Vec<&[usize]> = observation.sequences.starts().windows(2).collect();
    let of_slot = |(span, pairs): (&[usize], &Vec<Pair>)| {
        let image = Image {
            observation,
            hidden: &hidden,
            width,
            rows: (span[0]..span[1])
                .filter(|&row| observation.sequences.visible()[row])
                .collect(),
        };
        image.features(pairs)
    };
    spans.into_par_iter().zip(pairs).map(of_slot).collect()
}

/// One image of a batch.
struct Image<'a> {
    observation: &'a Observation<'a>,
    hidden: &'a [f32],
    width: usize,
    /// Its visible rows, CLS first.
    rows: Vec<usize>,
}

impl Image<'_> {
    fn token(&self, row: usize) -> &[f32] {
        &self.hidden[row * self.width..(row + 1) * self.width]
    }

    fn patches(&self) -> &[usize] {
        &self.rows[self.observation.sequences.prefix().min(self.rows.len())..]
    }

    /// The mean of the patches' tokens, each with a weight; weights add up to 1.
    fn mean(&self, weights: &[f32]) -> Vec<f32> {
        let mut mean = vec![0.0; self.width];
        for (&row, weight) in self.patches().iter().zip(weights) {
            add(&mut mean, self.token(row), *weight);
        }
        mean
    }

    fn features(&self, pairs: &[Pair]) -> Vec<f32> {
        let patches = self.patches();
        let cls = self.token(self.rows[0]);
        let mut told = Vec::with_capacity(feature_count(self.width));
        told.extend_from_slice(cls);
        let sizes = self.observation.sequences.sizes();
        let size = |row: usize| sizes.map_or(1.0, |sizes| sizes[row]);
        let total: f32 = patches.iter().map(|&row| size(row)).sum();
        let shares = patches.iter().map(|&row| size(row) / total.max(1.0));
        let shares: Vec<f32> = shares.collect();
        let mean = self.mean(&shares);
        told.extend_from_slice(&mean);
        distribution(
            pairs.iter().map(|pair| pair.similarity).collect(),
            &mut told,
        );

        let attention = self.observation.cls_attention.as_deref();
        let attention = |row: usize| attention.map_or(1.0, |attention| attention[row]);
        told.push(attention(self.rows[0]));
        let sum: f32 = patches.iter().map(|&row| attention(row)).sum();
        let attended = patches.iter().map(|&row| attention(row) / sum.max(LEAST));
        let attended: Vec<f32> = attended.collect();
        let mut sorted = attended.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        told.push(sorted.iter().map(|&p| -p * p.max(LEAST).ln()).sum());
        told.extend(MOST_ATTENDED.map(|count| sorted.iter().take(count).sum::<f32>()));
        distribution(
            sorted.iter().map(|p| p.max(LEAST).ln()).collect(),
            &mut told,
        );

        let lengths: Vec<f32> = patches.iter().map(|&row| square(self.token(row))).collect();
        let logarithms = lengths.iter().map(|square| 0.5 * square.max(LEAST).ln());
        distribution(logarithms.collect(), &mut told);
        let squares = lengths
            .iter()
            .zip(&shares)
            .map(|(square, share)| square * share);
        let spread = squares.sum::<f32>() - square(&mean);
        told.push(0.5 * square(cls).max(LEAST).ln());
        told.push(spread.max(LEAST).ln());
        told.push(square(&mean).max(LEAST).ln());

        self.keys(&mut told);

        let seen = self.mean(&attended);
        told.push(square(&seen).max(LEAST).ln());
        told.push(cosine(&seen, &mean));
        told.push(cosine(&seen, cls));
        told.push((patches.len().max(1) as f32).ln());
        let largest = patches.iter().map(|&row| size(row)).fold(1.0, f32::max);
        told.push(largest.ln());
        told
    }

    /// How similar keys are to their mean and to CLS's.
    fn keys(&self, told: &mut Vec<f32>) {
        let Some(keys) = &self.observation.keys else {
            told.resize(told.len() + 1 + 2 * OF_DISTRIBUTION, 0.0);
            return;
        };
        let patches = self.patches();
        let mut mean = vec![0.0; keys.width()];
        for &row in patches {
            add(&mut mean, keys.vector(row), 1.0 / patches.len() as f32);
        }
        told.push(square(&mean));
        let cls = keys.vector(self.rows[0]);
        for other in [mean.as_slice(), cls] {
            let products = patches.iter().map(|&row| product(keys.vector(row), other));
            distribution(products.collect(), told);
        }
    }
}

/// Quantiles and mean; zeros of nothing.
fn distribution(mut values: Vec<f32>, told: &mut Vec<f32>) {
    values.sort_by(f32::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        told.resize(told.len() + OF_DISTRIBUTION, 0.0);
        return;
    };
    told.extend(QUANTILES.map(|share| values[(last as f64 * share).round() as usize]));
    told.push(values.iter().sum::<f32>() / values.len() as f32);
}

fn add(sum: &mut [f32], values: &[f32], weight: f32) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += weight * value;
    }
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn square(vector: &[f32]) -> f32 {
    product(vector, vector)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    product(a, b) / (square(a) * square(b)).sqrt().max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::matched_pairs;
    use crate::testing::observed;
    use apt_vit_model::TokenBatch;
    use burn::prelude::*;
    use burn::tensor::Distribution;

    #[test]
    fn hidden_tokens_have_no_part_and_every_image_is_told_as_much() {
        let device = Device::default();
        device.seed(3);
        let tokens = Tensor::<3>::random([2, 7, 5], Distribution::Default, &device);
        let keys = Tensor::<2>::random([14, 4], Distribution::Default, &device);
        let batch = TokenBatch::full(tokens);
        let of = |batch: &TokenBatch, keys: Tensor<2>| {
            let observation = observed(batch, keys);
            image_features(&observation, &matched_pairs(&observation))
        };
        let mut keep = [true; 14];
        keep[9..11].fill(false);
        let hidden = of(&batch.clone().hide(&keep), keys.clone());
        let rows: Vec<i32> = (0..14).filter(|&row| keep[row as usize]).collect();
        let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &device);
        let dropped = batch.clone().drop_rows(&keep);
        let gone = of(&dropped, keys.clone().select(0, rows));
        let whole = of(&batch, keys);
        for slot in 0..2 {
            assert_eq!(whole[slot].len(), feature_count(5));
            for (a, b) in hidden[slot].iter().zip(&gone[slot]) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
        assert_eq!(hidden[0], whole[0]);
        assert_ne!(hidden[1], whole[1]);
    }
}
