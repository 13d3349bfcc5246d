use apt_vit_model::{FlopsCount, LayerTrace, Observation, Placement, Reduction, TokenReducer};
use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{AgentError, PruningAgent, PruningAgentConfig, agent_flops};

/// Which blocks have an agent, and how sure it has to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruningAgentsConfig {
    /// The blocks (0-based) after which an agent acts, ascending.
    pub layers: Vec<usize>,
    /// A token goes where its removal is more probable than this.
    pub threshold: f64,
}

impl Default for PruningAgentsConfig {
    /// The published settings.
    fn default() -> Self {
        Self {
            layers: vec![2, 5, 8],
            threshold: 0.5,
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
        let first = PruningAgentConfig::new(hidden_size).init(device);
        let agents = self.layers.iter().map(|_| PruningAgent {
            query: copy(&first.query),
            key: copy(&first.key),
            value: copy(&first.value),
            fc: copy(&first.fc),
        });
        Ok(PruningAgents {
            agents: agents.collect(),
            layers: self.layers.clone(),
        })
    }
}

/// A layer with the same values that learns on its own.
fn copy(linear: &Linear) -> Linear {
    fn copy<const D: usize>(param: &Param<Tensor<D>>) -> Param<Tensor<D>> {
        let tensor = Tensor::from_data(param.val().into_data(), &param.lazy_device());
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
    /// One for each layer.
    pub agents: Vec<PruningAgent>,
    /// The blocks (0-based) after which they act, ascending.
    pub layers: Vec<usize>,
}

impl PruningAgents {
    /// The agents as a reducer: each removes a token where the probability of its removal is
    /// above `threshold`.
    pub fn acting(&self, threshold: f64) -> AgentReducer<'_> {
        AgentReducer {
            agents: self,
            threshold,
        }
    }

    /// The agent of block `layer`.
    pub fn at(&self, layer: usize) -> Option<&PruningAgent> {
        self.agents.get(self.index_of(layer)?)
    }

    /// Which of the agents acts after block `layer`.
    pub(crate) fn index_of(&self, layer: usize) -> Option<usize> {
        self.layers.iter().position(|&acting| acting == layer)
    }

    /// What the agents compute for image `image` of a batch they acted on.
    pub fn flops(&self, hidden_size: usize, trace: &[LayerTrace], image: usize) -> FlopsCount {
        let acting = trace
            .iter()
            .filter(|entry| self.layers.contains(&entry.layer));
        acting
            .map(|entry| agent_flops(hidden_size, entry.seen[image]))
            .sum()
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
        self.agents.at(layer).map(|_| Placement::AfterBlock)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let Some(agent) = self.agents.at(observation.layer) else {
            return Reduction::none(observation.sequences);
        };
        let logits = agent.logits(observation.hidden.clone(), observation.sequences);
        let keep = removal_probabilities(&logits)
            .into_iter()
            .map(|probability| probability <= self.threshold)
            .collect();
        Reduction {
            keep,
            merge: None,
            mask: None,
            logits: Some(logits),
        }
    }
}

/// `softmax(logits)[1]` of each row of `[rows, 2]`.
pub(crate) fn removal_probabilities(logits: &Tensor<2>) -> Vec<f64> {
    let values: Vec<f32> = logits.to_data().iter::<f32>().collect();
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
