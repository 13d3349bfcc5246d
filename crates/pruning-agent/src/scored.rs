//! The reducer of agents that score single tokens.

use apt_vit_model::fused::highest;
use apt_vit_model::host::read;
use apt_vit_model::{
    Needs, Observation, Placement, Reduction, TokenReducer, UniformObservation, UniformReducer,
    UniformReduction,
};

use crate::merging::merge_into_nearest;
use crate::{Agents, Removal, Selection, SelectionNoise};

/// Removes the tokens first that [`Agents`] most want removed, as many as a selection says, after each of their blocks.
pub struct ScoredReducer<'a, A> {
    agents: &'a A,
    /// The blocks (0-based), ascending.
    blocks: &'a [usize],
    selection: Selection,
    /// In training: so that other decisions are tried, too.
    noise: Option<SelectionNoise>,
}

impl<'a, A: Agents> ScoredReducer<'a, A> {
    /// The agents act after `blocks` (0-based, ascending), one after each.
    pub fn new(agents: &'a A, blocks: &'a [usize], selection: &Selection) -> Self {
        Self {
            agents,
            blocks,
            selection: selection.clone(),
            noise: None,
        }
    }

    /// The same with noise on the scores.
    pub fn with_noise(self, noise: SelectionNoise) -> Self {
        Self {
            noise: Some(noise),
            ..self
        }
    }

    fn index_of(&self, layer: usize) -> Option<usize> {
        self.blocks.iter().position(|&acting| acting == layer)
    }

    fn merges(&self) -> bool {
        self.agents.removal() != Removal::Dropped
    }
}

impl<A: Agents> TokenReducer for ScoredReducer<'_, A> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.index_of(layer).map(|_| Placement::AfterBlock)
    }

    fn needs(&self, layer: usize) -> Needs {
        let own = self.agents.needs(layer);
        Needs {
            keys: own.keys || self.merges(),
            ..own
        }
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        if self.selection.is_of_batch() {
            None
        } else {
            Some(self)
        }
    }

    fn uniform(&self) -> Option<&dyn UniformReducer> {
        let counted = matches!(self.selection, Selection::Kept { .. }) && self.noise.is_none();
        let decides = counted && !self.merges() && self.agents.judges_images();
        decides.then_some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let Some(index) = self.index_of(observation.layer) else {
            return Reduction::none(sequences);
        };
        let logits = self.agents.judge(index, observation);
        // The difference of the logits ranks as the probability does, and does not saturate.
        let values = read(logits.clone());
        let pairs = values.chunks_exact(2);
        let mut scores: Vec<f32> = pairs.map(|pair| pair[0] - pair[1]).collect();
        if let Some(noise) = &self.noise {
            noise.disturb(&mut scores, sequences, observation.layer);
        }
        let keep = self.selection.keep(index, sequences, &scores);
        let keys = observation.keys.as_ref().filter(|_| self.merges());
        let merge = keys.map(|keys| merge_into_nearest(sequences, &keep, keys));
        Reduction {
            merge,
            logits: Some(logits),
            ..Reduction::keep(keep)
        }
    }
}

impl<A: Agents> UniformReducer for ScoredReducer<'_, A> {
    fn reduce_uniformly(&self, observation: &UniformObservation) -> Option<UniformReduction> {
        let index = self.index_of(observation.layer)?;
        let count = *self.selection.kept().get(index)?;
        let logits = self.agents.judge_images(index, observation.hidden())?;
        let [batch, tokens, _] = logits.dims();
        let prefix = observation.prefix;
        let count = count.min(tokens - prefix);
        let class = |class| logits.clone().narrow(2, class, 1).squeeze_dim::<2>(2);
        Some(UniformReduction {
            keep: highest(class(0) - class(1), prefix, count),
            left: prefix + count,
            merge: None,
            logits: Some(logits.reshape([batch * tokens, 2])),
        })
    }
}
