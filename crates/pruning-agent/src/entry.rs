//! What a policy tells the registry.

use std::fmt::Debug;

use apt_vit_model::VitConfig;
use burn::tensor::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{AgentError, Policy, Selection};

/// The settings of a policy: what a config can say of it. `Default` is what is best known. With
/// `#[serde(default, deny_unknown_fields)]`, a config need not say all of them, and a misspelt one is refused.
pub trait PolicySettings:
    Clone + Debug + Default + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The name by which it is chosen.
    const NAME: &'static str;
    /// What it does, and whose idea it is: a line of documentation.
    const SUMMARY: &'static str;
    /// What each of its settings means.
    const MEANINGS: &'static [Meaning] = &[];
    /// The algorithms by which it can learn, the best one first. None where it has nothing to learn.
    const ALGORITHMS: &'static [&'static str] = &[];
    /// Is it taught on a frozen model alone? A training refuses it.
    const FOR_FROZEN: bool = false;
    /// Has it to be told a share of the FLOPs?
    const BUDGET: BudgetUse = BudgetUse::Needed;
    /// What it makes.
    type Policy: Policy + 'static;

    /// Creates the policy for a model, its weights fresh.
    ///
    /// # Errors
    ///
    /// Where the settings do not fit the model, or make no sense.
    fn init(&self, model: &VitConfig, device: &Device) -> Result<Self::Policy, AgentError>;

    /// What it removes where no budget is said.
    fn without_budget(&self) -> Selection {
        Selection::All
    }
}

/// What a policy does with a budget: shares of the dense model's FLOPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BudgetUse {
    /// It does not prune without one.
    Needed,
    /// It prunes with one and without.
    Possible,
    /// It does not prune.
    Impossible,
}

/// What a setting means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Meaning {
    /// Its key.
    pub key: &'static str,
    /// In words, its default with it where the key's own value does not say it.
    pub meaning: &'static str,
}

/// The setting `layers` of policies that act after some blocks. In a sweep, a policy that lists this very constant acts
/// where the start's policy does.
pub const LAYERS: Meaning = Meaning {
    key: "layers",
    meaning: "the blocks (0-based) after which it acts; where it is not said 2, 5 and 8, or a quarter, a half and three \
              quarters through a model of fewer blocks",
};

/// The setting `adaptive` of policies with agents.
pub const ADAPTIVE: Meaning = Meaning {
    key: "adaptive",
    meaning: "with a budget, images keep as many patches as they are worth (calibrated on held-out images), instead of all \
              the same number",
};

/// A policy as the registry has it.
#[derive(Clone, Copy, Debug)]
pub struct PolicyEntry {
    /// [`PolicySettings::NAME`]
    pub name: &'static str,
    /// [`PolicySettings::SUMMARY`]
    pub summary: &'static str,
    /// [`PolicySettings::MEANINGS`]
    pub meanings: &'static [Meaning],
    /// [`PolicySettings::ALGORITHMS`]
    pub algorithms: &'static [&'static str],
    /// [`PolicySettings::FOR_FROZEN`]
    pub for_frozen: bool,
    /// [`PolicySettings::BUDGET`]
    pub budget: BudgetUse,
    pub(crate) complete: Complete,
    pub(crate) init: Init,
    pub(crate) without_budget: fn(&Map<String, Value>) -> Selection,
}

type Init = fn(&Map<String, Value>, &VitConfig, &Device) -> Result<Box<dyn Policy>, AgentError>;

/// Reads settings, and adds the defaults of those that are not said.
pub(crate) type Complete = fn(Map<String, Value>) -> Result<Map<String, Value>, String>;

impl PolicyEntry {
    /// The entry of a type of settings.
    pub const fn of<S: PolicySettings>() -> Self {
        Self {
            name: S::NAME,
            summary: S::SUMMARY,
            meanings: S::MEANINGS,
            algorithms: S::ALGORITHMS,
            for_frozen: S::FOR_FROZEN,
            budget: S::BUDGET,
            complete: |given| {
                let settings = read::<S>(&given)?;
                match serde_json::to_value(settings) {
                    Ok(Value::Object(mut all)) => {
                        // A setting that is not said has no value in TOML.
                        all.retain(|_, value| !value.is_null());
                        Ok(all)
                    }
                    Ok(_) => Ok(Map::new()),
                    Err(error) => Err(error.to_string()),
                }
            },
            init: |settings, model, device| {
                let settings = read::<S>(settings).map_err(AgentError::Settings)?;
                Ok(Box::new(settings.init(model, device)?))
            },
            without_budget: |settings| {
                read::<S>(settings).map_or(Selection::All, |settings| settings.without_budget())
            },
        }
    }

    /// Its settings with their defaults.
    pub fn defaults(&self) -> Map<String, Value> {
        (self.complete)(Map::new()).unwrap_or_default()
    }
}

fn read<S: PolicySettings>(settings: &Map<String, Value>) -> Result<S, String> {
    read_settings(settings)
}

/// Settings from their values; an error names the key.
///
/// # Errors
///
/// Where a key is unknown, or its value is of another type.
pub fn read_settings<S: DeserializeOwned>(settings: &Map<String, Value>) -> Result<S, String> {
    let read = |settings: Map<String, Value>| serde_json::from_value::<S>(Value::Object(settings));
    read(settings.clone()).map_err(|error| {
        let wrong = settings.iter().find_map(|(key, value)| {
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            let error = read(alone).err()?.to_string();
            if error.contains("missing field") {
                return None;
            }
            let named = error.contains(&format!("`{key}`"));
            Some(if named {
                error
            } else {
                format!("{key} = {value}: {error}")
            })
        });
        wrong.unwrap_or_else(|| error.to_string())
    })
}
