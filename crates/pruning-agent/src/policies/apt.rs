use apt_vit_model::host::{read, upload, upload_places};
use apt_vit_model::{FlopsCount, Observation, TokenReducer, VitConfig};
use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::prelude::*;
use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

use crate::acting_blocks::acting_blocks;
use crate::budget::kept_at_equal_rates;
use crate::networks::{PruningAgent, PruningAgentConfig, agent_flops};
use crate::scored::ScoredReducer;
use crate::threshold::{THRESHOLD, check_threshold};
use crate::{
    ADAPTIVE, AgentError, Agents, BudgetUse, Budgeting, LAYERS, Meaning, Policy, PolicySettings,
    Selection, SelectionNoise,
};

/// Settings of [`Apt`]. The defaults are the published ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AptSettings {
    /// The blocks (0-based) after which an agent acts.
    pub layers: Option<Vec<usize>>,
    /// Without a budget: a token goes where its removal is more probable than this.
    pub threshold: f64,
    /// With a budget: images keep as many patches as they are worth.
    pub adaptive: bool,
}

impl Default for AptSettings {
    fn default() -> Self {
        Self {
            layers: None,
            threshold: 0.5,
            adaptive: true,
        }
    }
}

impl PolicySettings for AptSettings {
    const NAME: &'static str = "apt";
    const SUMMARY: &'static str =
        "the published agents: each sees a token and its interaction with CLS, and drops it or not";
    const MEANINGS: &'static [Meaning] = &[LAYERS, THRESHOLD, ADAPTIVE];
    const ALGORITHMS: &'static [&'static str] = &["counterfactual"];
    const BUDGET: BudgetUse = BudgetUse::Possible;
    type Policy = Apt;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Apt, AgentError> {
        check_threshold(self.threshold)?;
        let blocks = acting_blocks(self.layers.as_ref(), model)?;
        let first = PruningAgentConfig::new(model.hidden_size).init(device);
        Ok(Apt {
            agents: blocks.iter().map(|_| copy_of(&first)).collect(),
            blocks,
            adaptive: self.adaptive,
        })
    }

    fn without_budget(&self) -> Selection {
        Selection::Threshold {
            threshold: self.threshold,
        }
    }
}

/// The agents of the published method, cv-automatic-pruning-transformer: each has its own weights, and all start as
/// copies of one.
#[derive(Module, Debug)]
pub struct Apt {
    /// One for each of the blocks.
    pub agents: Vec<PruningAgent>,
    #[module(skip)]
    blocks: Vec<usize>,
    #[module(skip)]
    adaptive: bool,
}

impl Policy for Apt {
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
        agent_flops(model.hidden_size, seen)
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

impl Agents for Apt {
    fn logits(&self, index: usize, observation: &Observation<'_>) -> Tensor<2> {
        self.agents[index].logits(observation.hidden.clone(), observation.sequences)
    }

    fn logits_of_rows(
        &self,
        index: usize,
        observation: &Observation<'_>,
        rows: Tensor<1, Int>,
    ) -> Tensor<2> {
        let cls = observation.sequences.cls_row_of_each_row();
        let cls = upload_places(cls, &observation.hidden.device());
        let of = |rows| observation.hidden.clone().select(0, rows);
        self.agents[index].logits_of(of(cls.select(0, rows.clone())), of(rows))
    }

    fn judge_images(&self, index: usize, hidden: Tensor<3>) -> Option<Tensor<3>> {
        let hidden = hidden.cast(FloatDType::F32);
        Some(self.agents[index].logits_of_images(hidden))
    }

    fn judges_images(&self) -> bool {
        true
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

/// An agent with the same values that learns on its own.
fn copy_of(agent: &PruningAgent) -> PruningAgent {
    fn of_param<const D: usize>(param: &Param<Tensor<D>>) -> Param<Tensor<D>> {
        let values = param.val();
        let shape = values.dims();
        let tensor = upload(read(values), shape, &param.lazy_device());
        param.clone().transform_for_load(tensor, ParamId::new())
    }
    let of_layer = |linear: &Linear| Linear {
        weight: of_param(&linear.weight),
        bias: linear.bias.as_ref().map(of_param),
    };
    PruningAgent {
        query: of_layer(&agent.query),
        key: of_layer(&agent.key),
        value: of_layer(&agent.value),
        fc: of_layer(&agent.fc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::VitPreset;

    #[test]
    fn agents_start_as_copies_and_have_parameters_of_their_own() {
        let model = VitPreset::Small32.config();
        let apt = AptSettings::default().init(&model, &Device::default());
        let apt = apt.unwrap();
        let [first, second] = [&apt.agents[0].key.weight, &apt.agents[1].key.weight];
        assert_eq!(first.val().into_data(), second.val().into_data());
        assert_ne!(first.id, second.id);
    }

    #[test]
    fn a_threshold_that_is_no_probability_is_refused() {
        let settings = AptSettings {
            threshold: 1.5,
            ..Default::default()
        };
        let error = settings.init(&VitPreset::Small32.config(), &Device::default());
        let message = error.unwrap_err().to_string();
        assert!(message.contains("policy.threshold = 1.5"), "{message}");
    }
}
