use apt_vit_model::VitConfig;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::park::{PARKED, ParkSettings};
use crate::exiting::{Exiting, Exits};
use crate::proportion::PROPORTION;
use crate::{AgentError, Meaning, PolicySettings};

/// Settings of merging pairs, parking and early answers at one price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AptPlusSettings {
    /// The blocks (0-based) in which images may be answered.
    pub layers: Option<Vec<usize>>,
    /// Width of the networks that judge pairs.
    pub width: Option<usize>,
    /// Does CLS go on reading tokens that merged?
    pub park: bool,
    /// How much more merged tokens are attended to.
    pub proportion: f64,
    /// How many times the price of FLOPs an early answer must be worth.
    pub dearness: f64,
}

impl Default for AptPlusSettings {
    fn default() -> Self {
        Self {
            layers: None,
            width: None,
            park: true,
            proportion: PARKED,
            dearness: 1.0,
        }
    }
}

impl PolicySettings for AptPlusSettings {
    const NAME: &'static str = "apt-plus";
    const SUMMARY: &'static str = "`park` and `early-exit` at one price of FLOPs: tokens merge and are parked, and images are answered early, where that \
                                   moves the answer least for what it saves. `aptvit prune` teaches it on a frozen model";
    const MEANINGS: &'static [Meaning] = &[
        Meaning {
            key: "layers",
            meaning: "the blocks (0-based) in which images may be answered, between attention and MLP; from a third on, but the \
                      last, where it is not said",
        },
        Meaning {
            key: "width",
            meaning: "width within of the networks that judge pairs; a sixth of the model's where it is not said",
        },
        Meaning {
            key: "park",
            meaning: "does CLS go on reading tokens that merged, as with `park`? Else tokens merge as with `pairs`",
        },
        PROPORTION,
        Meaning {
            key: "dearness",
            meaning: "how many times the price of FLOPs an early answer must be worth; the more, the fewer images are answered early. A \
                      merge is priced by what it would do alone, an early answer by what it does: below 0.3 of the FLOPs, try 0.01",
        },
    ];
    const FOR_FROZEN: bool = true;
    type Policy = Exiting;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Exiting, AgentError> {
        let merging = ParkSettings {
            width: self.width,
            read: self.park,
            proportion: self.proportion,
            ..Default::default()
        };
        let merging = merging.init(model, device)?;
        let exits = Exits::init(self.layers.as_ref(), model, device)?;
        Exiting::new(Some(merging), exits, self.dearness, model)
    }
}
