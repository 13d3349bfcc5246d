use apt_vit_model::fused::computes_here;
use apt_vit_model::{FlopsCount, Observation, TokenReducer, VitConfig};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::acting_blocks::check_blocks;
use crate::budget::kept_at_equal_rates;
use crate::networks::{TokenPredictor, TokenPredictorConfig};
use crate::scored::ScoredReducer;
use crate::threshold::{MOST_LOG_ODDS, THRESHOLD, check_threshold};
use crate::{
    AgentError, Agents, BudgetUse, Budgeting, LAYERS, Meaning, Policy, PolicySettings, Selection,
    SelectionNoise,
};

/// The blocks after which it acts where that is not said: early enough to save most of the compute, and late enough to have seen
/// what a patch's surroundings are like.
const BLOCKS: [usize; 2] = [0, 2];

/// Settings of [`Filter`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilterSettings {
    /// The blocks (0-based) after which an agent acts.
    pub layers: Option<Vec<usize>>,
    /// Without a budget: a token goes where its removal is more probable than this.
    pub threshold: f64,
}

impl Default for FilterSettings {
    fn default() -> Self {
        Self {
            layers: None,
            threshold: 0.5,
        }
    }
}

impl PolicySettings for FilterSettings {
    const NAME: &'static str = "filter";
    const SUMMARY: &'static str = "drops patches that mislead the model: noise, occluders, pieces of other images. `aptvit prune --corrupt` teaches \
                                   it: it replaces patches, and rewards removals that restore the answer to the whole image";
    const MEANINGS: &'static [Meaning] = &[
        Meaning {
            meaning: "the blocks (0-based) after which it acts; 0 and 2 where it is not said",
            ..LAYERS
        },
        THRESHOLD,
    ];
    const ALGORITHMS: &'static [&'static str] = &["counterfactual"];
    const BUDGET: BudgetUse = BudgetUse::Possible;
    type Policy = Filter;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Filter, AgentError> {
        check_threshold(self.threshold)?;
        let usual = || {
            let blocks = BLOCKS.into_iter();
            blocks.filter(|&block| block < model.num_layers).collect()
        };
        let blocks: Vec<usize> = self.layers.clone().unwrap_or_else(usual);
        check_blocks(&blocks, model.num_layers)?;
        let network = TokenPredictorConfig::narrow(model.hidden_size);
        Ok(Filter {
            agents: blocks.iter().map(|_| network.init(device)).collect(),
            blocks,
        })
    }

    fn without_budget(&self) -> Selection {
        Selection::Threshold {
            threshold: self.threshold,
        }
    }
}

/// Predictors that compare each token with its image's mean.
#[derive(Module, Debug)]
pub struct Filter {
    /// One for each of the blocks.
    pub agents: Vec<TokenPredictor>,
    #[module(skip)]
    blocks: Vec<usize>,
}

impl Policy for Filter {
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

    fn flops(&self, model: &VitConfig, seen: usize, _: usize) -> FlopsCount {
        let head_width = model.hidden_size / model.num_heads;
        let network = self.agents.first();
        network.map_or(0, |agent| agent.flops(seen, head_width))
    }

    fn budgeting(&self) -> Budgeting {
        // Log-odds that a token misleads, which are the same question in every block.
        Budgeting::Level {
            most: MOST_LOG_ODDS,
        }
    }

    fn agents(&self) -> Option<&dyn Agents> {
        Some(self)
    }
}

impl Agents for Filter {
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

    fn is_adaptive(&self) -> bool {
        true
    }

    fn noisy_reducer<'a>(
        &'a self,
        selection: &Selection,
        noise: SelectionNoise,
    ) -> Box<dyn TokenReducer + 'a> {
        Box::new(ScoredReducer::new(self, &self.blocks, selection).with_noise(noise))
    }
}
