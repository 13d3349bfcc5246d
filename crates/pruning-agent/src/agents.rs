use apt_vit_model::fused::computes_here;
use apt_vit_model::host::{read, upload};
use apt_vit_model::{
    FlopsCount, LayerTrace, Needs, Observation, Placement, Reduction, TokenReducer, VitConfig,
};
use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::prelude::*;
use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

use crate::{
    AgentError, PairAgent, PairAgentConfig, Preference, PruningAgent, PruningAgentConfig,
    TokenPredictor, TokenPredictorConfig, agent_flops,
};

/// What an agent is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentNetwork {
    /// The published one: a [`PruningAgent`].
    #[default]
    Interaction,
    /// DynamicViT's, as wide as the tokens: a [`TokenPredictor`].
    Predictor,
    /// The same at a third of the width, told of CLS's attention, of likeness and of sizes; it starts by
    /// removing what is like others.
    Hinted,
    /// The same, but it starts by keeping what CLS attends to.
    Attentive,
    /// A [`PairAgent`], a sixth as wide as the tokens: for `policy.merge = "matched"`.
    Pair,
}

/// Which blocks have an agent, and how sure it has to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruningAgentsConfig {
    /// The blocks (0-based) after which an agent acts, ascending.
    pub layers: Vec<usize>,
    /// A token goes where its removal is more probable than this.
    pub threshold: f64,
    /// What they are made of.
    pub network: AgentNetwork,
}

impl Default for PruningAgentsConfig {
    /// The published settings.
    fn default() -> Self {
        Self {
            layers: vec![2, 5, 8],
            threshold: 0.5,
            network: AgentNetwork::Interaction,
        }
    }
}

impl PruningAgentsConfig {
    /// Creates the agents for a model of `num_layers` blocks of width `hidden_size`. Each layer
    /// has its own weights; all start as copies of one agent.
    ///
    /// # Errors
    ///
    /// Where the layers are not ascending block numbers of the model.
    pub fn init(
        &self,
        hidden_size: usize,
        num_layers: usize,
        device: &Device,
    ) -> Result<PruningAgents, AgentError> {
        let ascending = self.layers.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || self.layers.iter().any(|&layer| layer >= num_layers) {
            return Err(AgentError::Layers {
                layers: self.layers.clone(),
                num_layers,
            });
        }
        let mut agents = PruningAgents {
            agents: Vec::new(),
            predictors: Vec::new(),
            pairs: Vec::new(),
            critics: Vec::new(),
            layers: self.layers.clone(),
        };
        let predictor = |width: usize, hints| {
            let width = (width / 4).max(1) * 4;
            let config = TokenPredictorConfig::new(hidden_size, width).with_hints(hints);
            self.layers.iter().map(|_| config.init(device)).collect()
        };
        match self.network {
            AgentNetwork::Interaction => {
                let first = PruningAgentConfig::new(hidden_size).init(device);
                let copies = self.layers.iter().map(|_| PruningAgent {
                    query: copy(&first.query),
                    key: copy(&first.key),
                    value: copy(&first.value),
                    fc: copy(&first.fc),
                });
                agents.agents = copies.collect();
            }
            AgentNetwork::Predictor => agents.predictors = predictor(hidden_size, None),
            AgentNetwork::Hinted => {
                agents.predictors = predictor(hidden_size / 3, Some(Preference::Unlike));
            }
            AgentNetwork::Attentive => {
                agents.predictors = predictor(hidden_size / 3, Some(Preference::Attended));
            }
            AgentNetwork::Pair => {
                let config = PairAgentConfig::new(hidden_size, (hidden_size / 6).max(1));
                agents.pairs = self.layers.iter().map(|_| config.init(device)).collect();
            }
        }
        Ok(agents)
    }
}

/// A layer with the same values that learns on its own.
fn copy(linear: &Linear) -> Linear {
    fn copy<const D: usize>(param: &Param<Tensor<D>>) -> Param<Tensor<D>> {
        let values = param.val();
        let shape = values.dims();
        let tensor = upload(read(values), shape, &param.lazy_device());
        param.clone().transform_for_load(tensor, ParamId::new())
    }
    Linear {
        weight: copy(&linear.weight),
        bias: linear.bias.as_ref().map(copy),
    }
}

/// One agent for each of some blocks, created by [`PruningAgentsConfig::init`].
#[derive(Module, Debug)]
pub struct PruningAgents {
    /// One for each layer; none where there are predictors.
    pub agents: Vec<PruningAgent>,
    /// One for each layer, of the networks that are predictors.
    pub predictors: Vec<TokenPredictor>,
    /// One for each layer, of the networks that judge pairs.
    pub pairs: Vec<PairAgent>,
    /// One for each layer where the algorithm has critics, which say how an image will fare; they do not
    /// act.
    pub critics: Vec<TokenPredictor>,
    /// The blocks (0-based) after which they act, ascending.
    pub layers: Vec<usize>,
}

impl PruningAgents {
    /// The same with a critic for each layer, of width `width` inside.
    pub fn with_critics(mut self, hidden_size: usize, width: usize, device: &Device) -> Self {
        let config = TokenPredictorConfig::new(hidden_size, (width / 4).max(1) * 4);
        self.critics = self.layers.iter().map(|_| config.init(device)).collect();
        self
    }

    /// The agents as a reducer: each removes a token where the probability of its removal is
    /// above `threshold`.
    pub fn acting(&self, threshold: f64) -> AgentReducer<'_> {
        AgentReducer {
            agents: self,
            threshold,
        }
    }

    /// What the agent after block `layer` has to see.
    pub fn needs(&self, layer: usize) -> Needs {
        let predictor = self
            .index_of(layer)
            .and_then(|index| self.predictors.get(index));
        let hints = predictor.is_some_and(TokenPredictor::has_hints);
        Needs {
            cls_attention: hints,
            keys: hints || !self.pairs.is_empty(),
        }
    }

    /// What agent `index` makes of the tokens, `[rows, 2]`: class 0 keeps, class 1 removes.
    pub fn logits(&self, index: usize, observation: &Observation<'_>) -> Tensor<2> {
        match (self.predictors.get(index), self.pairs.get(index)) {
            (Some(predictor), _) => predictor.logits(observation),
            (None, Some(agent)) => agent.logits(observation),
            (None, None) => {
                self.agents[index].logits(observation.hidden.clone(), observation.sequences)
            }
        }
    }

    /// As [`logits`](Self::logits), for the decision alone: no gradient need go through it.
    pub(crate) fn judge(&self, index: usize, observation: &Observation<'_>) -> Tensor<2> {
        match self.predictors.get(index) {
            Some(predictor) if computes_here(&observation.hidden.device()) => {
                predictor.judge(observation)
            }
            _ => self.logits(index, observation),
        }
    }

    /// As [`judge`](Self::judge), of images that all have the same number of tokens, `[batch, tokens, hidden]`: `[batch,
    /// tokens, 2]`. None where the network is another than the original's.
    pub(crate) fn judge_images(&self, index: usize, hidden: Tensor<3>) -> Option<Tensor<3>> {
        let hidden = hidden.cast(FloatDType::F32);
        Some(self.agents.get(index)?.logits_of_images(hidden))
    }

    /// Which of the agents acts after block `layer`.
    pub fn index_of(&self, layer: usize) -> Option<usize> {
        self.layers.iter().position(|&acting| acting == layer)
    }

    /// What the agents compute for image `image` of a batch they acted on.
    pub fn flops(&self, model: &VitConfig, trace: &[LayerTrace], image: usize) -> FlopsCount {
        let of_entry = |entry: &LayerTrace| {
            let (index, seen) = (self.index_of(entry.layer)?, entry.seen[image]);
            let head_width = model.hidden_size / model.num_heads;
            Some(match (self.predictors.get(index), self.pairs.get(index)) {
                (Some(predictor), _) => predictor.flops(seen, head_width),
                (None, Some(agent)) => agent.flops(seen, model.num_prefix_tokens(), head_width),
                (None, None) => agent_flops(model.hidden_size, seen),
            })
        };
        trace.iter().filter_map(of_entry).sum()
    }
}

/// [`PruningAgents`] that act by a threshold.
#[derive(Clone, Copy, Debug)]
pub struct AgentReducer<'a> {
    agents: &'a PruningAgents,
    threshold: f64,
}

impl TokenReducer for AgentReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.agents.index_of(layer).map(|_| Placement::AfterBlock)
    }

    fn needs(&self, layer: usize) -> Needs {
        self.agents.needs(layer)
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let Some(index) = self.agents.index_of(observation.layer) else {
            return Reduction::none(observation.sequences);
        };
        let logits = self.agents.judge(index, observation);
        let keep = removal_probabilities(&logits)
            .into_iter()
            .map(|probability| probability <= self.threshold)
            .collect();
        Reduction {
            logits: Some(logits),
            ..Reduction::keep(keep)
        }
    }
}

/// `softmax(logits)[1]` of each row of `[rows, 2]`.
pub(crate) fn removal_probabilities(logits: &Tensor<2>) -> Vec<f64> {
    let values = read(logits.clone());
    let pairs = values.chunks_exact(2);
    pairs
        .map(|pair| 1.0 / (1.0 + f64::from(pair[0] - pair[1]).exp()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_start_as_copies_and_have_parameters_of_their_own() {
        let device = Device::default();
        let agents = PruningAgentsConfig::default().init(8, 10, &device).unwrap();
        let [first, second] = [&agents.agents[0].key.weight, &agents.agents[1].key.weight];
        assert_eq!(first.val().into_data(), second.val().into_data());
        assert_ne!(first.id, second.id);
    }

    #[test]
    fn layers_that_the_model_lacks_are_refused() {
        let error = PruningAgentsConfig::default().init(8, 6, &Device::default());
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("[2, 5, 8]") && message.contains('6'),
            "{message}"
        );
    }
}
