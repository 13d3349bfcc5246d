use apt_vit_model::VitConfig;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::gates::Gates;
use crate::{AgentError, PolicySettings};

/// Settings of allocation by forecast: there are none. The same [`Gates`] as [`AllocateSettings`](crate::AllocateSettings)
/// has, taught to foresee the logarithm of each schedule's divergence and nothing else.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegressionSettings {}

impl PolicySettings for RegressionSettings {
    const NAME: &'static str = "regression";
    const SUMMARY: &'static str = "`allocate` without reinforcement: its gates foresee the divergence that each schedule leads \
                                   to, taught by regression (`aptvit prune`), and the cheapest at the price is chosen; \
                                   before that, as `tome`";
    type Policy = Gates;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Gates, AgentError> {
        Gates::init(model, device)
    }
}
