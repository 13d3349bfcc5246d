//! How much a policy removes.

use std::cmp::Ordering::Less;

use apt_vit_model::Sequences;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::keep_rate::{KeepRate, best, keep_best};

/// How much a policy removes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Selection {
    /// What agents want removed with more than this probability: published.
    Threshold {
        /// The probability.
        threshold: f64,
    },
    /// What agents score below this in each of their blocks.
    LeastScores {
        /// Per block, the least log-odds of staying that stay.
        scores: Vec<f64>,
    },
    /// What is worth less than this: for policies that allocate compute to images.
    Price {
        /// Of all the dense model's FLOPs, in nats of divergence.
        price: f64,
    },
    /// Schedules of merging that images get at random.
    Schedules {
        /// Per schedule, the share of the images that get it.
        shares: Vec<f64>,
    },
    /// As much as leaves so many patches in each image after each block; images whose answer is then less certain than this start
    /// over, with nothing removed.
    Cascade {
        /// Per block.
        kept: Vec<usize>,
        /// The probability of the most probable class.
        certainty: f64,
    },
    /// As much as leaves so many patches in each image after each block.
    Kept {
        /// Per block.
        kept: Vec<usize>,
    },
    /// As much as leaves so many patches in the mean of a batch's images after each block; for agents
    /// alone, others take it as [`Kept`](Self::Kept).
    #[serde(skip)]
    KeptOfBatch {
        /// Per block.
        kept: Vec<usize>,
    },
    /// As much as leaves so many patches in each image after each block, another number in each; for agents alone.
    #[serde(skip)]
    KeptOfEach {
        /// Per block, per image of the batch.
        kept: Vec<Vec<usize>>,
    },
    /// Nothing is removed.
    #[default]
    #[serde(skip)]
    All,
}

impl Selection {
    /// In each image, the share `rates[block]` of what was left before it stays.
    pub fn at_rates(patches: usize, rates: &[KeepRate]) -> Self {
        Self::Kept {
            kept: left(patches, rates).collect(),
        }
    }

    /// As many patches as [`at_rates`](Self::at_rates) keeps in a whole batch, but another number in each image: in
    /// equal steps from 0.6 to 1.4 times the mean, or as far as an image has patches.
    pub fn ragged(patches: usize, batch: usize, rates: &[KeepRate]) -> Self {
        let first = left(patches, rates).next().unwrap_or(patches);
        let spread = (patches as f64 / first as f64 - 1.0).min(0.4);
        // From -1 for the first image to 1 for the last; 0 for a single one.
        let slope = |image: usize| match batch {
            1 => 0.0,
            _ => 2.0 * image as f64 / (batch - 1) as f64 - 1.0,
        };
        let of_block = |left: usize| {
            // What rounding takes from one image, the next one gets.
            let (mut wanted, mut given) = (1e-6, 0);
            let images = (0..batch).map(|image| {
                wanted += left as f64 * (1.0 + spread * slope(image));
                let count = (wanted as usize - given).min(patches);
                given += count;
                count
            });
            images.collect()
        };
        Self::KeptOfEach {
            kept: left(patches, rates).map(of_block).collect(),
        }
    }

    /// How many patches stay in each image after each block, where that is said; nothing is removed in blocks beyond.
    pub fn kept(&self) -> &[usize] {
        match self {
            Self::Kept { kept } | Self::KeptOfBatch { kept } | Self::Cascade { kept, .. } => kept,
            _ => &[],
        }
    }

    /// Is a batch judged as a whole?
    pub(crate) fn is_of_batch(&self) -> bool {
        matches!(self, Self::KeptOfBatch { .. })
    }

    /// Which rows stay at the agent `index`: those with high scores.
    pub(crate) fn keep(&self, index: usize, sequences: &Sequences, scores: &[f32]) -> Vec<bool> {
        // A score that is no number stays: whoever observes the dense model removes nothing, whatever became of it.
        let above = |least: f64| {
            let stays = move |score: &f32| f64::from(*score).partial_cmp(&least) != Some(Less);
            scores.iter().map(stays)
        };
        let all = || vec![true; sequences.num_rows()];
        match self {
            Self::All | Self::Price { .. } | Self::Schedules { .. } => all(),
            // The odds of removal are the scores' negative exponentials.
            Self::Threshold { threshold } => above((1.0 / threshold - 1.0).ln()).collect(),
            Self::LeastScores { scores } => match scores.get(index) {
                Some(&least) => above(least).collect(),
                None => all(),
            },
            Self::Kept { kept } | Self::Cascade { kept, .. } => {
                keep_best(sequences, scores, |_, patches| {
                    kept.get(index).copied().unwrap_or(patches)
                })
            }
            Self::KeptOfEach { kept } => keep_best(sequences, scores, |slot, patches| {
                let counts = kept.get(index);
                let count = counts.and_then(|counts| counts.get(sequences.image(slot)));
                count.copied().unwrap_or(patches)
            }),
            Self::KeptOfBatch { kept } => {
                let count = kept.get(index).map(|count| count * sequences.batch());
                best_of_all(sequences, scores, count.unwrap_or(usize::MAX))
            }
        }
    }
}

/// The patches that are left after each block.
fn left(patches: usize, rates: &[KeepRate]) -> impl Iterator<Item = usize> {
    rates.iter().scan(patches, |left, rate| {
        *left = rate.of(*left);
        Some(*left)
    })
}

/// The `count` best patches of the whole batch, and what stands before the patches.
fn best_of_all(sequences: &Sequences, scores: &[f32], count: usize) -> Vec<bool> {
    let mut keep = vec![false; sequences.num_rows()];
    let mut patches = Vec::with_capacity(keep.len());
    for span in sequences.starts().windows(2) {
        let first = span[0] + sequences.prefix();
        keep[span[0]..first].fill(true);
        patches.extend((first..span[1]).filter(|&row| sequences.visible()[row]));
    }
    for &row in best(&mut patches, scores, count) {
        keep[row] = true;
    }
    keep
}

/// Logistic noise on the scores. With it, a token is removed with the probability that its logits,
/// divided by the temperature, give to that.
#[derive(Clone, Debug)]
pub struct SelectionNoise {
    /// The noise is multiplied by it.
    pub temperature: f32,
    /// One seed for each image of the batch, in its order.
    pub seeds: Vec<u64>,
}

impl SelectionNoise {
    /// Adds the noise of block `layer` to the scores of the rows.
    pub(crate) fn disturb(&self, scores: &mut [f32], sequences: &Sequences, layer: usize) {
        let starts = sequences.starts();
        for slot in 0..sequences.batch() {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seeds[sequences.image(slot)]);
            rng.set_stream(layer as u64);
            // One for each position, so that it does not matter which rows are still there.
            let noise: Vec<f32> = (0..sequences.tokens_per_image())
                .map(|_| {
                    let uniform = rng.random_range(1e-6..1.0f32 - 1e-6);
                    self.temperature * (uniform / (1.0 - uniform)).ln()
                })
                .collect();
            let rows = starts[slot]..starts[slot + 1];
            for (row, &position) in rows.zip(sequences.positions(slot)) {
                scores[row] += noise[position];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(rates: &[f64]) -> Vec<KeepRate> {
        let rates = rates.iter().map(|&rate| KeepRate::new(rate).unwrap());
        rates.collect()
    }

    #[test]
    fn layer_keep_rates_multiply() {
        let selection = Selection::at_rates(196, &rates(&[0.7, 0.7, 0.7]));
        assert_eq!(selection.kept(), [138, 97, 68]);
    }

    proptest! {
        #[test]
        fn ragged_keeps_as_many_as_equal_counts(
            patches in 4usize..300,
            batch in 1usize..40,
            shares in prop::collection::vec(0.2f64..1.0, 1..4),
        ) {
            let equal = Selection::at_rates(patches, &rates(&shares));
            let Selection::KeptOfEach { kept } = Selection::ragged(patches, batch, &rates(&shares)) else {
                panic!("another selection");
            };
            for (equal, ragged) in equal.kept().iter().zip(&kept) {
                let all: usize = ragged.iter().sum();
                prop_assert!((equal * batch).abs_diff(all) <= 1, "{equal} and {all}");
                prop_assert!(ragged.iter().all(|&count| count <= patches));
            }
        }
    }

    #[test]
    fn a_batch_shares_its_patches_by_score_and_no_prefix_goes() {
        let sequences = Sequences::full(2, 4);
        let scores = [-9.0, 1.0, 2.0, 3.0, -9.0, -1.0, -2.0, 2.5];
        let selection = Selection::KeptOfBatch { kept: vec![2] };
        let keep = selection.keep(0, &sequences, &scores);
        assert_eq!(keep, [true, true, true, true, true, false, false, true]);
    }

    #[test]
    fn the_published_threshold_is_one_of_scores() {
        let sequences = Sequences::full(1, 4);
        let scores = [0.0, 0.3, -0.3, 1.0];
        let keep = |selection: Selection| selection.keep(0, &sequences, &scores);
        let threshold = |threshold| keep(Selection::Threshold { threshold });
        assert_eq!(threshold(0.5), [true, true, false, true]);
        assert_eq!([threshold(1.0), threshold(0.0)], [[true; 4], [false; 4]]);
        let scores = vec![0.5];
        let least = keep(Selection::LeastScores { scores });
        assert_eq!(least, [false, false, false, true]);
        let none = Selection::All.keep(0, &sequences, &[f32::NAN; 4]);
        assert_eq!(none, [true; 4]);
    }

    #[test]
    fn images_and_blocks_of_which_nothing_is_said_keep_all() {
        let sequences = Sequences::full(3, 5);
        let scores: Vec<f32> = (0..15).map(|row| row as f32).collect();
        // The second image has no nine patches, and nothing is said of the third.
        let selection = Selection::KeptOfEach {
            kept: vec![vec![2, 9]],
        };
        let keep = selection.keep(0, &sequences, &scores);
        assert_eq!(keep[..5], [true, false, false, true, true]);
        assert!(keep[5..].iter().all(|&keep| keep));
        assert!(
            selection
                .keep(1, &sequences, &scores)
                .iter()
                .all(|&keep| keep)
        );
    }

    #[test]
    fn selections_survive_being_written_and_read() {
        for selection in [
            Selection::Threshold { threshold: 0.4 },
            Selection::LeastScores {
                scores: vec![0.25, -1.0],
            },
            Selection::Kept { kept: vec![9, 4] },
            Selection::Cascade {
                kept: vec![9, 4],
                certainty: 0.25,
            },
            Selection::Price { price: 0.3 },
            Selection::Schedules {
                shares: vec![0.25, 0.75],
            },
        ] {
            let text = serde_json::to_string(&selection).unwrap();
            let read: Selection = serde_json::from_str(&text).unwrap();
            assert_eq!(read, selection);
        }
    }
}
