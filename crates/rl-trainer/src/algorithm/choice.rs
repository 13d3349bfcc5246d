//! The algorithm that a config chooses.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::entry::AlgorithmEntry;
use super::lesson::Algorithm;
use super::registry::algorithm_entry;

/// An algorithm by its name, with its settings.
#[derive(Clone, Debug)]
pub struct AlgorithmConfig {
    entry: AlgorithmEntry,
    /// All of them.
    settings: Map<String, Value>,
}

impl AlgorithmConfig {
    /// The algorithm of this name with some settings; the others have their defaults.
    ///
    /// # Errors
    ///
    /// Where there is no such algorithm, it has no such setting, or a value makes no sense.
    pub fn with_settings(name: &str, settings: Map<String, Value>) -> Result<Self, String> {
        let entry = algorithm_entry(name)?;
        let settings = (entry.complete)(settings);
        let settings = settings.map_err(|error| format!("policy.algorithm ({name}): {error}"))?;
        Ok(Self { entry, settings })
    }

    /// What the registry says of it.
    pub fn entry(&self) -> &AlgorithmEntry {
        &self.entry
    }

    /// Its settings.
    pub fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    /// Creates the algorithm at the start of a training.
    ///
    /// # Errors
    ///
    /// Where a setting makes no sense.
    pub fn init(&self) -> Result<Box<dyn Algorithm>, String> {
        (self.entry.init)(&self.settings)
    }
}

impl PartialEq for AlgorithmConfig {
    fn eq(&self, other: &Self) -> bool {
        self.entry.name == other.entry.name && self.settings == other.settings
    }
}

impl Serialize for AlgorithmConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = Map::from_iter([("name".to_string(), Value::from(self.entry.name))]);
        all.extend(self.settings.clone());
        all.serialize(serializer)
    }
}
