use apt_vit_model::VitConfig;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::exiting::{Exiting, Exits};
use crate::{AgentError, Meaning, PolicySettings};

/// Settings of early exits alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyExitSettings {
    /// The blocks (0-based) in which images may be answered.
    pub layers: Option<Vec<usize>>,
}

impl PolicySettings for EarlyExitSettings {
    const NAME: &'static str = "early-exit";
    const SUMMARY: &'static str = "removes no patch, but answers an image before the last block where its agent foresees that the answer hardly \
                                   changes. `aptvit prune` teaches it on a frozen model";
    const MEANINGS: &'static [Meaning] = &[Meaning {
        key: "layers",
        meaning: "the blocks (0-based) in which images may be answered, between attention and MLP; from a third on, but the \
                  last, where it is not said",
    }];
    const FOR_FROZEN: bool = true;
    type Policy = Exiting;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Exiting, AgentError> {
        let exits = Exits::init(self.layers.as_ref(), model, device)?;
        Exiting::new(None, exits, 1.0, model)
    }
}
