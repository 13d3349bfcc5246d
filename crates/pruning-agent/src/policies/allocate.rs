use apt_vit_model::VitConfig;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::gates::Gates;
use crate::{AgentError, PolicySettings};

/// Settings of learned allocation: there are none. [`Gates`] choose for each image how much merges in the coming blocks,
/// given what they see of it and the price of computing. Reinforcement teaches them, with the frozen model as the
/// environment: the reward is minus the divergence of the answer minus the price of the FLOPs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocateSettings {}

impl PolicySettings for AllocateSettings {
    const NAME: &'static str = "allocate";
    const SUMMARY: &'static str = "decides for each image how much merges, in three steps, by what the first blocks show of \
                                   it; which patches merge is ToMe's choice. `aptvit prune` teaches it on a frozen model by \
                                   the exact expected reward; before that, as `tome`";
    type Policy = Gates;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Gates, AgentError> {
        Gates::init(model, device)
    }
}
