use apt_vit_model::fused::{best_match, highest};
use apt_vit_model::{
    FlopsCount, MergeWeights, Needs, Observation, Placement, Reduction, TokenReducer, UniformMerge,
    UniformObservation, UniformReducer, UniformReduction, VitConfig,
};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::acting_blocks::{acting_blocks, all_but_the_last};
use crate::budget::kept_at_equal_counts;
use crate::matching::matched_pairs;
use crate::merging::merge_pairs;
use crate::networks::{PairAgent, PairAgentConfig, logits_of};
use crate::proportion::{PROPORTION, PUBLISHED, check_proportion};
use crate::{
    ADAPTIVE, AgentError, Agents, Budgeting, Meaning, Policy, PolicySettings, Removal, Selection,
    SelectionNoise,
};

/// Settings of [`Pairs`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairsSettings {
    /// The blocks (0-based) in which pairs merge.
    pub layers: Option<Vec<usize>>,
    /// Images keep as many patches as they are worth.
    pub adaptive: bool,
    /// Width of the agents' networks within.
    pub width: Option<usize>,
    /// How much more merged tokens are attended to.
    pub proportion: f64,
}

impl Default for PairsSettings {
    fn default() -> Self {
        Self {
            layers: None,
            width: None,
            adaptive: true,
            proportion: PUBLISHED,
        }
    }
}

/// The most that a network's width may be: as much as a model's.
const WIDEST: usize = 65_536;

impl PolicySettings for PairsSettings {
    const NAME: &'static str = "pairs";
    const SUMMARY: &'static str =
        "learned merging: agents judge ToMe's pairs by how far the model's answer would move";
    const MEANINGS: &'static [Meaning] = &[
        Meaning {
            key: "layers",
            meaning: "the blocks (0-based) in which pairs merge; all but the last where it is not said",
        },
        ADAPTIVE,
        Meaning {
            key: "width",
            meaning: "width of the agents' networks within; a sixth of the model's where it is not said",
        },
        PROPORTION,
    ];
    const ALGORITHMS: &'static [&'static str] = &["first-order"];
    type Policy = Pairs;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Pairs, AgentError> {
        let blocks = match &self.layers {
            None => all_but_the_last(model),
            said => acting_blocks(said.as_ref(), model)?,
        };
        let width = match self.width {
            None => (model.hidden_size / 6).max(1),
            Some(width) if (1..=WIDEST).contains(&width) => width,
            Some(width) => {
                return Err(AgentError::Setting {
                    key: "width",
                    found: width.to_string(),
                    expected: format!("must be a whole number from 1 to {WIDEST}"),
                });
            }
        };
        let network = PairAgentConfig::new(model.hidden_size, width);
        Ok(Pairs {
            agents: blocks.iter().map(|_| network.init(device)).collect(),
            blocks,
            adaptive: self.adaptive,
            proportion: check_proportion(self.proportion)?,
        })
    }
}

/// ToMe's action, learned: every other patch may merge, between attention and MLP, into the most similar one of the
/// rest, and an agent for each block says which pairs do. Before it has learned anything, the most similar ones.
#[derive(Module, Debug)]
pub struct Pairs {
    /// One for each of the blocks.
    pub agents: Vec<PairAgent>,
    #[module(skip)]
    blocks: Vec<usize>,
    #[module(skip)]
    adaptive: bool,
    #[module(skip)]
    proportion: f32,
}

impl Policy for Pairs {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn placement(&self) -> Placement {
        Placement::AfterAttention
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        _: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        Box::new(self.pairs_reducer(selection, None))
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        let head_width = model.hidden_size / model.num_heads;
        let network = self.agents.first();
        let prefix = model.num_prefix_tokens();
        // The matching is among what the agent computes.
        let network = network.map_or(0, |agent| agent.flops(seen, prefix, head_width));
        network + 2 * ((seen - left) * model.hidden_size) as u64
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_counts(self, model, share)
    }

    fn budgeting(&self) -> Budgeting {
        if self.adaptive {
            Budgeting::Price
        } else {
            Budgeting::Counts
        }
    }

    fn agents(&self) -> Option<&dyn Agents> {
        Some(self)
    }
}

impl Pairs {
    pub(super) fn pairs_reducer(
        &self,
        selection: &Selection,
        noise: Option<SelectionNoise>,
    ) -> PairsReducer<'_> {
        PairsReducer {
            policy: self,
            selection: selection.clone(),
            noise,
        }
    }
}

impl Agents for Pairs {
    fn needs(&self, _: usize) -> Needs {
        Needs {
            cls_attention: false,
            keys: true,
        }
    }

    fn logits(&self, index: usize, observation: &Observation<'_>) -> Tensor<2> {
        self.agents[index].logits(observation)
    }

    fn removal(&self) -> Removal {
        Removal::MergedInPairs
    }

    fn is_adaptive(&self) -> bool {
        self.adaptive
    }

    fn noisy_reducer<'a>(
        &'a self,
        selection: &Selection,
        noise: SelectionNoise,
    ) -> Box<dyn TokenReducer + 'a> {
        Box::new(self.pairs_reducer(selection, Some(noise)))
    }
}

/// The reducer of [`Pairs`].
pub(super) struct PairsReducer<'a> {
    policy: &'a Pairs,
    selection: Selection,
    noise: Option<SelectionNoise>,
}

impl PairsReducer<'_> {
    fn index_of(&self, layer: usize) -> Option<usize> {
        let mut blocks = self.policy.blocks.iter();
        blocks.position(|&acting| acting == layer)
    }
}

impl TokenReducer for PairsReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.index_of(layer).map(|_| Placement::AfterAttention)
    }

    fn needs(&self, layer: usize) -> Needs {
        self.policy.needs(layer)
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
        counted.then_some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let Some(index) = self.index_of(observation.layer) else {
            return Reduction::none(sequences);
        };
        let pairs = matched_pairs(observation);
        if pairs.iter().all(Vec::is_empty) {
            return Reduction::none(sequences);
        }
        let rows = sequences.num_rows();
        let judged = self.policy.agents[index].judge(observation, &pairs);
        // What has no other to go into stays.
        let mut scores = vec![f32::INFINITY; rows];
        for (pair, &score) in pairs.iter().flatten().zip(&judged) {
            scores[pair.from] = score;
        }
        if let Some(noise) = &self.noise {
            noise.disturb(&mut scores, sequences, observation.layer);
        }
        let mut keep = self.selection.keep(index, sequences, &scores);
        for (keep, score) in keep.iter_mut().zip(&scores) {
            *keep |= score.is_infinite();
        }
        let gone = pairs.iter().flatten().filter(|pair| !keep[pair.from]);
        let gone = gone.map(|pair| (pair.from, pair.into));
        let merge = merge_pairs(sequences, gone, self.policy.proportion);
        let device = observation.hidden.device();
        Reduction {
            merge: Some(merge),
            logits: Some(logits_of(&pairs, &judged, rows, &device)),
            ..Reduction::keep(keep)
        }
    }
}

impl UniformReducer for PairsReducer<'_> {
    fn reduce_uniformly(&self, observation: &UniformObservation) -> Option<UniformReduction> {
        let index = self.index_of(observation.layer)?;
        let count = *self.selection.kept().get(index)?;
        let prefix = observation.prefix;
        let matches = best_match(observation.keys.clone()?, prefix)?;
        let [_, tokens] = matches.similarity.dims();
        let left = prefix + count.max(tokens - prefix - matches.seekers);
        if left >= tokens {
            return None;
        }
        // What does not seek another stays: its similarity is minus infinity.
        let stays = matches.similarity.clone().equal_elem(f32::NEG_INFINITY);
        let agent = &self.policy.agents[index];
        let scores = agent.scores_of_images(observation, &matches);
        let scores = scores.mask_fill(stays, f32::INFINITY);
        Some(UniformReduction {
            keep: highest(scores, prefix, left - prefix),
            left,
            merge: Some(UniformMerge {
                into: matches.into,
                proportion: self.policy.proportion,
                weights: MergeWeights::Sizes,
            }),
            logits: None,
        })
    }
}
