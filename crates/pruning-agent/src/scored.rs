use std::cmp::Ordering::Less;

use apt_vit_model::fused::{best_match, highest};
use apt_vit_model::host::read;
use apt_vit_model::{
    Keys, Merge, MergeWeights, Needs, Observation, Placement, Reduction, Sequences, TokenReducer,
    UniformMerge, UniformObservation, UniformReducer, UniformReduction,
};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::keep_rate::best;
use crate::pair_agent::logits_of;
use crate::similarity::nearest;
use crate::tome::merged;
use crate::{Amount, Merging, PairAgent, PruningAgents, keep_best, matched_pairs};

/// [`PruningAgents`] that remove as much as they are told, the tokens first that they most want removed.
#[derive(Clone, Debug)]
pub struct ScoredReducer<'a> {
    /// Who scores.
    pub agents: &'a PruningAgents,
    /// How much.
    pub amount: Amount,
    /// What becomes of what they remove.
    pub merge: Merging,
    /// In training: how far scores are off at random, so that other decisions are tried, too.
    pub exploration: Option<Exploration>,
}

/// Logistic noise on the scores. With it, a token is removed with the probability that its logits,
/// divided by the temperature, give to that.
#[derive(Clone, Debug)]
pub struct Exploration {
    /// What the noise is multiplied by.
    pub temperature: f32,
    /// One seed for each image of the batch, in its order.
    pub seeds: Vec<u64>,
}

impl TokenReducer for ScoredReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.agents.index_of(layer).map(|_| match self.merge {
            Merging::Matched => Placement::AfterAttention,
            _ => Placement::AfterBlock,
        })
    }

    fn needs(&self, layer: usize) -> Needs {
        let own = self.agents.needs(layer);
        Needs {
            keys: own.keys || self.merge != Merging::Lost,
            ..own
        }
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        match self.amount {
            Amount::KeptOfBatch { .. } => None,
            _ => Some(self),
        }
    }

    fn uniform(&self) -> Option<&dyn UniformReducer> {
        let counted = matches!(self.amount, Amount::Kept { .. }) && self.exploration.is_none();
        let decides = match self.merge {
            Merging::Lost => !self.agents.agents.is_empty(),
            Merging::Nearest => false,
            Merging::Matched => !self.agents.pairs.is_empty(),
        };
        (counted && decides).then_some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let Some(index) = self.agents.index_of(observation.layer) else {
            return Reduction::none(sequences);
        };
        if let (Merging::Matched, Some(agent)) = (self.merge, self.agents.pairs.get(index)) {
            return self.reduce_pairs(agent, index, observation);
        }
        let logits = self.agents.judge(index, observation);
        let values = read(logits.clone());
        let mut scores: Vec<f32> = values
            .chunks_exact(2)
            .map(|pair| pair[0] - pair[1])
            .collect();
        if let Some(exploration) = &self.exploration {
            exploration.disturb(&mut scores, sequences, observation.layer);
        }
        let keep = self.amount.keep(index, sequences, &scores);
        let keys = observation.keys.as_ref();
        let merge = keys
            .filter(|_| self.merge != Merging::Lost)
            .map(|keys| into_nearest(sequences, &keep, keys));
        Reduction {
            merge,
            logits: Some(logits),
            ..Reduction::keep(keep)
        }
    }
}

impl UniformReducer for ScoredReducer<'_> {
    fn reduce_uniformly(&self, observation: &UniformObservation) -> Option<UniformReduction> {
        let Amount::Kept { kept } = &self.amount else {
            return None;
        };
        let index = self.agents.index_of(observation.layer)?;
        let count = *kept.get(index)?;
        match self.agents.pairs.get(index) {
            Some(agent) => merge_uniformly(agent, observation, count),
            None => self.agents.keep_uniformly(index, observation, count),
        }
    }
}

/// Leaves `count` patches of each image; of the matched pairs those merge that score lowest.
fn merge_uniformly(
    agent: &PairAgent,
    observation: &UniformObservation,
    count: usize,
) -> Option<UniformReduction> {
    let prefix = observation.prefix;
    let matches = best_match(observation.keys.clone()?, prefix)?;
    let [_, tokens] = matches.similarity.dims();
    let left = prefix + count.max(tokens - prefix - matches.seekers);
    if left >= tokens {
        return None;
    }
    // What does not seek another stays: its similarity is minus infinity.
    let stays = matches.similarity.clone().equal_elem(f32::NEG_INFINITY);
    let scores = agent.scores_of_images(observation, &matches);
    let scores = scores.mask_fill(stays, f32::INFINITY);
    Some(UniformReduction {
        keep: highest(scores, prefix, left - prefix),
        left,
        merge: Some(UniformMerge {
            into: matches.into,
            weights: MergeWeights::Sizes,
        }),
        logits: None,
    })
}

impl ScoredReducer<'_> {
    /// Patches go into those that they were matched with.
    fn reduce_pairs(
        &self,
        agent: &PairAgent,
        index: usize,
        observation: &Observation<'_>,
    ) -> Reduction {
        let sequences = observation.sequences;
        let pairs = matched_pairs(observation);
        if pairs.iter().all(Vec::is_empty) {
            return Reduction::none(sequences);
        }
        let rows = sequences.num_rows();
        let judged = agent.judge(observation, &pairs);
        let mut scores = vec![f32::INFINITY; rows];
        for (pair, &score) in pairs.iter().flatten().zip(&judged) {
            scores[pair.from] = score;
        }
        if let Some(exploration) = &self.exploration {
            exploration.disturb(&mut scores, sequences, observation.layer);
        }
        let mut keep = self.amount.keep(index, sequences, &scores);
        for (keep, score) in keep.iter_mut().zip(&scores) {
            *keep |= score.is_infinite();
        }
        let gone = pairs.iter().flatten().filter(|pair| !keep[pair.from]);
        let merge = merged(sequences, gone.map(|pair| (pair.from, pair.into)));
        let device = observation.hidden.device();
        Reduction {
            merge: Some(merge),
            logits: Some(logits_of(&pairs, &judged, rows, &device)),
            ..Reduction::keep(keep)
        }
    }
}

impl Exploration {
    fn disturb(&self, scores: &mut [f32], sequences: &Sequences, layer: usize) {
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

impl Amount {
    /// Which rows stay at the agent `index`; the higher a score, the rather.
    fn keep(&self, index: usize, sequences: &Sequences, scores: &[f32]) -> Vec<bool> {
        // What has no score stays: whoever observes the dense model removes nothing, whatever became of it.
        let above = |least: f64| {
            let stays = move |score: &f32| f64::from(*score).partial_cmp(&least) != Some(Less);
            scores.iter().map(stays)
        };
        match self {
            // The odds of removal are the scores' negative exponentials.
            Self::Threshold { threshold } => above((1.0 / threshold - 1.0).ln()).collect(),
            Self::Scores { scores } => match scores.get(index) {
                Some(&least) => above(least).collect(),
                None => vec![true; sequences.num_rows()],
            },
            Self::Kept { kept } => keep_best(sequences, scores, |_, patches| {
                kept.get(index).copied().unwrap_or(patches)
            }),
            Self::KeptOfBatch { kept } => {
                let count = kept.get(index).map(|count| count * sequences.batch());
                best_of_all(sequences, scores, count.unwrap_or(usize::MAX))
            }
        }
    }
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

/// Per row, for patches that stay: the other patch that stays and is most like it, into which it would go if
/// it were removed, too. Needs the keys.
pub fn likest_kept(observation: &Observation<'_>, keep: &[bool]) -> Vec<Option<usize>> {
    let sequences = observation.sequences;
    let mut likest = vec![None; sequences.num_rows()];
    let Some(keys) = &observation.keys else {
        return likest;
    };
    for span in sequences.starts().windows(2) {
        let first = span[0] + sequences.prefix();
        let kept = (first..span[1]).filter(|&row| sequences.visible()[row] && keep[row]);
        let kept: Vec<usize> = kept.collect();
        for (&row, nearest) in kept.iter().zip(nearest(keys, &kept, &kept)) {
            likest[row] = nearest.map(|(_, other)| other);
        }
    }
    likest
}

/// Each removed patch goes into the kept patch of its image that is most like it; where none is kept, it
/// is lost.
fn into_nearest(sequences: &Sequences, keep: &[bool], keys: &Keys) -> Merge {
    let starts = sequences.starts();
    let spans: Vec<&[usize]> = starts.windows(2).collect();
    let pairs = spans.into_par_iter().map(|span| {
        let first = span[0] + sequences.prefix();
        let visible = (first..span[1]).filter(|&row| sequences.visible()[row]);
        let (kept, removed): (Vec<usize>, Vec<usize>) = visible.partition(|&row| keep[row]);
        let nearest = nearest(keys, &removed, &kept);
        let pairs = removed.into_iter().zip(nearest);
        let pairs = pairs.filter_map(|(row, nearest)| nearest.map(|(_, into)| (row, into)));
        pairs.collect::<Vec<_>>()
    });
    let pairs: Vec<(usize, usize)> = pairs.flatten_iter().collect();
    merged(sequences, pairs.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::prelude::*;

    #[test]
    fn a_batch_shares_its_patches_by_score_and_no_prefix_goes() {
        let sequences = Sequences::full(2, 4);
        let scores = [-9.0, 1.0, 2.0, 3.0, -9.0, -1.0, -2.0, 2.5];
        let amount = Amount::KeptOfBatch { kept: vec![2] };
        let keep = amount.keep(0, &sequences, &scores);
        assert_eq!(keep, [true, true, true, true, true, false, false, true]);
    }

    #[test]
    fn the_published_threshold_is_one_of_scores() {
        let sequences = Sequences::full(1, 4);
        let scores = [0.0, 0.3, -0.3, 1.0];
        let probability = Amount::Threshold { threshold: 0.5 }.keep(0, &sequences, &scores);
        assert_eq!(probability, [true, true, false, true]);
        let least = Amount::Scores { scores: vec![0.5] }.keep(0, &sequences, &scores);
        assert_eq!(least, [false, false, false, true]);
        let none = Amount::Threshold { threshold: 1.0 }.keep(0, &sequences, &[f32::NAN; 4]);
        assert_eq!(none, [true; 4]);
    }

    #[test]
    fn removed_patches_go_into_their_likes() {
        let sequences = Sequences::full(1, 5);
        let vectors = vec![0.0, 0.0, 1.0, 0.0, 0.9, 0.1, 0.0, 1.0, 0.1, 0.8];
        let device = Device::default();
        let vectors = Tensor::<1>::from_data(vectors.as_slice(), &device);
        let keys = Keys::new(vectors.reshape([5, 2]));
        let keep = [true, true, false, true, false];
        let merge = into_nearest(&sequences, &keep, &keys);
        assert_eq!(merge.into, [0, 1, 1, 3, 3]);
        assert_eq!(merge.weights, [1.0, 0.5, 0.5, 0.5, 0.5]);
    }
}
