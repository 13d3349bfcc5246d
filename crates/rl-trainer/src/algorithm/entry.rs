//! What an algorithm tells the registry.

use std::fmt::Debug;

use apt_pruning_agent::{Meaning, read_settings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::lesson::Algorithm;

/// The settings of an algorithm: what a config can say of it. `Default` is what is best known.
pub trait AlgorithmSettings:
    Clone + Debug + Default + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The name by which it is chosen.
    const NAME: &'static str;
    /// What it does, and whose idea it is: a line of documentation.
    const SUMMARY: &'static str;
    /// What each of its settings means.
    const MEANINGS: &'static [Meaning] = &[];
    /// Does it learn from the model's own backward pass? Then blocks cannot be computed anew in it
    /// (`train.gradient_checkpointing`).
    const LEARNS_FROM_BACKWARD: bool = false;

    /// Creates the algorithm at the start of a training.
    ///
    /// # Errors
    ///
    /// Where a setting makes no sense; the error names it, what was found, and what it has to be.
    fn init(&self) -> Result<Box<dyn Algorithm>, String>;
}

/// An algorithm as the registry has it.
#[derive(Clone, Copy, Debug)]
pub struct AlgorithmEntry {
    /// [`AlgorithmSettings::NAME`]
    pub name: &'static str,
    /// [`AlgorithmSettings::SUMMARY`]
    pub summary: &'static str,
    /// [`AlgorithmSettings::MEANINGS`]
    pub meanings: &'static [Meaning],
    /// [`AlgorithmSettings::LEARNS_FROM_BACKWARD`]
    pub learns_from_backward: bool,
    pub(super) complete: Complete,
    pub(super) init: Init,
}

/// Creates the algorithm of settings.
pub(super) type Init = fn(&Map<String, Value>) -> Result<Box<dyn Algorithm>, String>;

/// Reads settings, and adds the defaults of those that are not said.
pub(super) type Complete = fn(Map<String, Value>) -> Result<Map<String, Value>, String>;

impl AlgorithmEntry {
    /// The entry of a type of settings.
    pub const fn of<S: AlgorithmSettings>() -> Self {
        Self {
            name: S::NAME,
            summary: S::SUMMARY,
            meanings: S::MEANINGS,
            learns_from_backward: S::LEARNS_FROM_BACKWARD,
            complete: |given| {
                let settings: S = read_settings(&given)?;
                // What makes no sense is refused when it is read, not when a training begins.
                settings.init()?;
                match serde_json::to_value(settings) {
                    Ok(Value::Object(all)) => Ok(all),
                    Ok(_) => Ok(Map::new()),
                    Err(error) => Err(error.to_string()),
                }
            },
            init: |settings| read_settings::<S>(settings)?.init(),
        }
    }

    /// Its settings with their defaults.
    pub fn defaults(&self) -> Map<String, Value> {
        (self.complete)(Map::new()).unwrap_or_default()
    }
}
