use apt_vit_model::fused::computes_here;
use apt_vit_model::{FlopsCount, Needs, Observation, TokenReducer, VitConfig};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::acting_blocks::acting_blocks;
use crate::budget::kept_at_equal_rates;
use crate::networks::{TokenPredictor, TokenPredictorConfig};
use crate::scored::ScoredReducer;
use crate::{
    ADAPTIVE, AgentError, Agents, Budgeting, LAYERS, Meaning, Policy, PolicySettings, Removal,
    Selection, SelectionNoise,
};

/// Settings of [`Attentive`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentiveSettings {
    /// The blocks (0-based) after which an agent acts.
    pub layers: Option<Vec<usize>>,
    /// A removed patch merges into the most similar one that stays, instead of being dropped.
    pub merge: bool,
    /// Images keep as many patches as they are worth.
    pub adaptive: bool,
}

impl Default for AttentiveSettings {
    fn default() -> Self {
        Self {
            layers: None,
            merge: true,
            adaptive: true,
        }
    }
}

impl PolicySettings for AttentiveSettings {
    const NAME: &'static str = "attentive";
    const SUMMARY: &'static str = "small predictors that see a token, CLS's attention to it, its similarity to others and its size; they \
                                   start from CLS's attention";
    const MEANINGS: &'static [Meaning] = &[
        LAYERS,
        Meaning {
            key: "merge",
            meaning: "a removed patch merges into the most similar one that stays, instead of being dropped",
        },
        ADAPTIVE,
    ];
    const ALGORITHMS: &'static [&'static str] = &["first-order", "policy-gradient", "ppo"];
    type Policy = Attentive;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Attentive, AgentError> {
        let blocks = acting_blocks(self.layers.as_ref(), model)?;
        let network = TokenPredictorConfig::narrow(model.hidden_size).with_hints(true);
        Ok(Attentive {
            agents: blocks.iter().map(|_| network.init(device)).collect(),
            blocks,
            merge: self.merge,
            adaptive: self.adaptive,
        })
    }
}

/// Predictors a third as wide as the tokens, one for each block, that are told of CLS's attention, similarity and size.
#[derive(Module, Debug)]
pub struct Attentive {
    /// One for each of the blocks.
    pub agents: Vec<TokenPredictor>,
    #[module(skip)]
    blocks: Vec<usize>,
    #[module(skip)]
    merge: bool,
    #[module(skip)]
    adaptive: bool,
}

impl Policy for Attentive {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        _: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        Box::new(ScoredReducer::new(self, &self.blocks, selection))
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_rates(self, model, share)
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        let head_width = model.hidden_size / model.num_heads;
        let network = self.agents.first();
        let network = network.map_or(0, |agent| agent.flops(seen, head_width));
        let (kept, removed) = (left - model.num_prefix_tokens(), seen - left);
        // What is removed is compared with all that stays.
        let merging = removed * (kept * head_width + model.hidden_size);
        network + if self.merge { 2 * merging as u64 } else { 0 }
    }

    fn budgeting(&self) -> Budgeting {
        if self.adaptive {
            Budgeting::Scores
        } else {
            Budgeting::Counts
        }
    }

    fn agents(&self) -> Option<&dyn Agents> {
        Some(self)
    }
}

impl Agents for Attentive {
    fn needs(&self, _: usize) -> Needs {
        Needs {
            cls_attention: true,
            keys: true,
        }
    }

    fn logits(&self, index: usize, observation: &Observation<'_>) -> Tensor<2> {
        self.agents[index].logits(observation)
    }

    fn judge(&self, index: usize, observation: &Observation<'_>) -> Tensor<2> {
        if computes_here(&observation.hidden.device()) {
            self.agents[index].judge(observation)
        } else {
            self.logits(index, observation)
        }
    }

    fn removal(&self) -> Removal {
        if self.merge {
            Removal::MergedIntoNearest
        } else {
            Removal::Dropped
        }
    }

    fn is_adaptive(&self) -> bool {
        self.adaptive
    }

    fn noisy_reducer<'a>(
        &'a self,
        selection: &Selection,
        noise: SelectionNoise,
    ) -> Box<dyn TokenReducer + 'a> {
        Box::new(ScoredReducer::new(self, &self.blocks, selection).with_noise(noise))
    }
}
