//! The policy that a config chooses.

use apt_vit_model::VitConfig;
use burn::tensor::Device;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{AgentError, AnyPolicy, PolicyEntry, Selection, policy_entry};

/// The key that says which policy.
const NAME: &str = "name";

/// A policy by its name, with its settings: `policy = "tome"`, or a table with `name` and the policy's own keys.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    entry: PolicyEntry,
    /// All of them.
    settings: Map<String, Value>,
}

impl PolicyConfig {
    /// The policy of this name with its defaults.
    ///
    /// # Errors
    ///
    /// Where there is none; the error names those that there are.
    pub fn named(name: &str) -> Result<Self, AgentError> {
        Self::with_settings(name, Map::new())
    }

    /// The policy of this name with some settings; the others have their defaults.
    ///
    /// # Errors
    ///
    /// Where there is no such policy, or it has no such setting.
    pub fn with_settings(name: &str, settings: Map<String, Value>) -> Result<Self, AgentError> {
        let entry = policy_entry(name)?;
        let settings = (entry.complete)(settings).map_err(AgentError::Settings)?;
        Ok(Self { entry, settings })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// What the registry says of it.
    pub fn entry(&self) -> &PolicyEntry {
        &self.entry
    }

    /// Its settings: all that have a value.
    pub fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    /// Creates the policy for a model, its weights fresh.
    ///
    /// # Errors
    ///
    /// Where the settings do not fit the model.
    pub fn init(&self, model: &VitConfig, device: &Device) -> Result<AnyPolicy, AgentError> {
        Ok((self.entry.init)(&self.settings, model, device)?.into())
    }

    /// What it removes where no budget is said.
    pub fn without_budget(&self) -> Selection {
        (self.entry.without_budget)(&self.settings)
    }
}

impl PartialEq for PolicyConfig {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.settings == other.settings
    }
}

impl Serialize for PolicyConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = Map::from_iter([(NAME.to_string(), Value::from(self.name()))]);
        all.extend(self.settings.clone());
        all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PolicyConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (name, settings) = name_and_settings(Value::deserialize(deserializer)?)
            .map_err(|expected| D::Error::custom(format!("policy: {expected}")))?;
        Self::with_settings(&name, settings).map_err(D::Error::custom)
    }
}

/// The parts of `"NAME"` or `{ name = "NAME", ... }`.
///
/// # Errors
///
/// Says what was expected.
pub fn name_and_settings(chosen: Value) -> Result<(String, Map<String, Value>), String> {
    match chosen {
        Value::String(name) => Ok((name, Map::new())),
        Value::Object(mut settings) => match settings.remove(NAME) {
            Some(Value::String(name)) => Ok((name, settings)),
            Some(other) => Err(format!("name = {other}: expected a name in quotes")),
            None => Err("expected a name, as in name = \"tome\", beside its settings".into()),
        },
        other => Err(format!(
            "found {other}: expected a name in quotes, or a table with one"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<PolicyConfig, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_policy_is_a_name_or_a_name_with_settings() {
        let named = read(json!("pairs")).unwrap();
        assert_eq!(named, PolicyConfig::named("pairs").unwrap());
        let told = read(json!({ "name": "apt", "threshold": 0.6, "layers": [1] })).unwrap();
        assert_eq!(told.settings()["threshold"], 0.6);
        let written = serde_json::to_value(&told).unwrap();
        assert_eq!(read(written).unwrap(), told);
    }

    #[test]
    fn what_a_policy_does_not_have_is_refused_by_name() {
        let unknown = read(json!("tomato")).unwrap_err();
        assert!(unknown.contains("`tome`"), "{unknown}");
        let other = read(json!({ "name": "tome", "threshold": 0.5 })).unwrap_err();
        assert!(other.contains("`threshold`"), "{other}");
        let high = read(json!({ "name": "apt", "threshold": "high" })).unwrap_err();
        assert!(high.contains("threshold = \"high\""), "{high}");
        let nameless = read(json!({ "layers": [1] })).unwrap_err();
        assert!(nameless.contains("expected a name"), "{nameless}");
    }
}
