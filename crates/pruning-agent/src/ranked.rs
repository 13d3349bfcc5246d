use apt_vit_model::{Observation, Placement, Reduction, Sequences, TokenReducer};

use crate::agents::removal_probabilities;
use crate::{KeepRate, PruningAgents, keep_best};

/// How many patches stay in each image after each agent layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCounts {
    /// Per agent layer, per image.
    counts: Vec<Vec<usize>>,
}

impl KeptCounts {
    /// In each of `batch` images of `patches` patches, the share `rates[l]` of what was left
    /// before it stays at agent layer `l`.
    pub fn uniform(patches: usize, batch: usize, rates: &[KeepRate]) -> Self {
        let mut left = patches;
        let counts = rates.iter().map(|rate| {
            left = rate.of(left);
            vec![left; batch]
        });
        Self {
            counts: counts.collect(),
        }
    }

    /// As many patches as [`uniform`](Self::uniform) keeps in the whole batch, but a different
    /// number in each image: in equal steps from 0.6 to 1.4 times the mean, or as far as an
    /// image has patches.
    pub fn ragged(patches: usize, batch: usize, rates: &[KeepRate]) -> Self {
        let mut kept = Self::uniform(patches, batch, rates);
        let first = kept.counts.first().map_or(patches, |counts| counts[0]);
        let spread = (patches as f64 / first as f64 - 1.0).min(0.4);
        let steps = batch.saturating_sub(1).max(1) as f64;
        for counts in &mut kept.counts {
            let mean = counts[0] as f64;
            // What rounding takes from one image, the next one gets.
            let (mut wanted, mut given) = (0.0, 0);
            for (image, count) in counts.iter_mut().enumerate() {
                let slope = if batch == 1 {
                    0.0
                } else {
                    2.0 * image as f64 / steps - 1.0
                };
                wanted += mean * (1.0 + spread * slope);
                *count = ((wanted + 1e-6) as usize - given).min(patches);
                given += *count;
            }
        }
        kept
    }
}

/// [`PruningAgents`] that keep a given number of patches: in each image those whose removal they
/// find least probable.
#[derive(Clone, Debug)]
pub struct RankedReducer<'a> {
    /// Who ranks.
    pub agents: &'a PruningAgents,
    /// How many stay.
    pub kept: KeptCounts,
}

impl RankedReducer<'_> {
    fn counts(&self, layer: usize) -> Option<&Vec<usize>> {
        let index = self
            .agents
            .layers
            .iter()
            .position(|&acting| acting == layer)?;
        self.kept.counts.get(index)
    }
}

impl TokenReducer for RankedReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.counts(layer).map(|_| Placement::AfterBlock)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences: &Sequences = observation.sequences;
        let acting = self.agents.at(observation.layer);
        let Some((agent, counts)) = acting.zip(self.counts(observation.layer)) else {
            return Reduction {
                keep: vec![true; sequences.num_rows()],
                logits: None,
            };
        };
        let logits = agent.logits(observation.hidden.clone(), sequences);
        let scores: Vec<f32> = removal_probabilities(&logits)
            .into_iter()
            .map(|probability| -probability as f32)
            .collect();
        let count = |slot: usize, patches: usize| counts[sequences.image(slot)].min(patches);
        Reduction {
            keep: keep_best(sequences, &scores, count),
            logits: Some(logits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(rates: &[f64]) -> Vec<KeepRate> {
        rates
            .iter()
            .map(|&rate| KeepRate::new(rate).unwrap())
            .collect()
    }

    #[test]
    fn layer_keep_rates_multiply() {
        let kept = KeptCounts::uniform(196, 2, &rates(&[0.7, 0.7, 0.7]));
        assert_eq!(kept.counts, [[138, 138], [97, 97], [68, 68]]);
    }

    proptest! {
        #[test]
        fn ragged_keeps_as_many_as_uniform(
            patches in 4usize..300,
            batch in 1usize..40,
            shares in prop::collection::vec(0.2f64..1.0, 1..4),
        ) {
            let uniform = KeptCounts::uniform(patches, batch, &rates(&shares));
            let ragged = KeptCounts::ragged(patches, batch, &rates(&shares));
            for (uniform, ragged) in uniform.counts.iter().zip(&ragged.counts) {
                let [uniform, all] = [uniform, ragged].map(|counts| counts.iter().sum::<usize>());
                prop_assert!(uniform.abs_diff(all) <= 1, "{uniform} and {all}");
                prop_assert!(ragged.iter().all(|&count| count <= patches));
            }
        }
    }
}
