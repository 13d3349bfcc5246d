use apt_vit_model::fused::computes_here;
use apt_vit_model::{FlopsCount, Observation, TokenReducer, VitConfig};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::acting_blocks::acting_blocks;
use crate::budget::kept_at_equal_rates;
use crate::networks::{TokenPredictor, TokenPredictorConfig};
use crate::scored::ScoredReducer;
use crate::{
    AgentError, Agents, LAYERS, Meaning, Policy, PolicySettings, Selection, SelectionNoise,
};

/// Settings of [`DynamicVit`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicVitSettings {
    /// The blocks (0-based) after which a predictor acts.
    pub layers: Option<Vec<usize>>,
}

impl PolicySettings for DynamicVitSettings {
    const NAME: &'static str = "dynamic-vit";
    const SUMMARY: &'static str = "predictors as wide as the tokens drop the same number of patches in every image (DynamicViT; Rao et al., 2021)";
    const MEANINGS: &'static [Meaning] = &[LAYERS];
    const ALGORITHMS: &'static [&'static str] = &["dynamic-vit"];
    type Policy = DynamicVit;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<DynamicVit, AgentError> {
        let blocks = acting_blocks(self.layers.as_ref(), model)?;
        let width = (model.hidden_size / 4).max(1) * 4;
        let network = TokenPredictorConfig::new(model.hidden_size, width);
        Ok(DynamicVit {
            agents: blocks.iter().map(|_| network.init(device)).collect(),
            blocks,
        })
    }
}

/// DynamicViT's prediction modules (Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token
/// Sparsification", 2021), one for each block. Every image keeps the same number of patches.
#[derive(Module, Debug)]
pub struct DynamicVit {
    /// One for each of the blocks.
    pub agents: Vec<TokenPredictor>,
    #[module(skip)]
    blocks: Vec<usize>,
}

impl Policy for DynamicVit {
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

    fn agents(&self) -> Option<&dyn Agents> {
        Some(self)
    }
}

impl Agents for DynamicVit {
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

    fn noisy_reducer<'a>(
        &'a self,
        selection: &Selection,
        noise: SelectionNoise,
    ) -> Box<dyn TokenReducer + 'a> {
        Box::new(ScoredReducer::new(self, &self.blocks, selection).with_noise(noise))
    }
}
