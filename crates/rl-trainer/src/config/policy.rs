//! `policy = "NAME"` or `[policy]`: who decides, and how that is learned.

use apt_pruning_agent::{AgentError, PolicyConfig, name_and_settings};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::algorithm::AlgorithmConfig;

/// The key under which a policy's algorithm stands.
const ALGORITHM: &str = "algorithm";
/// The policy where nothing is said: the published one.
const USUAL: &str = "apt";

/// A policy with its settings, and the algorithm by which it learns with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySection {
    /// Who decides which tokens stay.
    pub policy: PolicyConfig,
    /// How that is learned; none where there is nothing to learn.
    pub algorithm: Option<AlgorithmConfig>,
}

impl PolicySection {
    /// The policy of this name with its defaults, and its best algorithm with its defaults.
    ///
    /// # Errors
    ///
    /// Where there is no such policy.
    pub fn named(name: &str) -> Result<Self, AgentError> {
        Self::of(PolicyConfig::named(name)?, None).map_err(AgentError::Settings)
    }

    /// The policy with what was said of its algorithm.
    fn of(policy: PolicyConfig, said: Option<Value>) -> Result<Self, String> {
        let possible = policy.entry().algorithms;
        let Some(&best) = possible.first() else {
            if said.is_some() {
                let name = policy.name();
                return Err(format!(
                    "the policy `{name}` has nothing to learn, and takes no algorithm"
                ));
            }
            return Ok(Self {
                policy,
                algorithm: None,
            });
        };
        let (name, settings) = match said {
            None => (best.to_string(), Map::new()),
            // Settings of the usual algorithm need no name.
            Some(Value::Object(settings)) if !settings.contains_key("name") => {
                (best.to_string(), settings)
            }
            Some(said) => {
                name_and_settings(said).map_err(|expected| format!("{ALGORITHM}: {expected}"))?
            }
        };
        if !possible.contains(&name.as_str()) {
            let possible: Vec<String> = possible.iter().map(|name| format!("`{name}`")).collect();
            return Err(format!(
                "unknown variant `{name}`, expected one of {}: the algorithms by which the policy {} learns",
                possible.join(", "),
                policy.name()
            ));
        }
        let algorithm = AlgorithmConfig::with_settings(&name, settings)?;
        Ok(Self {
            policy,
            algorithm: Some(algorithm),
        })
    }
}

impl Default for PolicySection {
    /// The published agents and their algorithm.
    fn default() -> Self {
        let usual = Self::named(USUAL);
        usual.unwrap_or_else(|error| unreachable!("the usual policy is built in: {error}"))
    }
}

impl Serialize for PolicySection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = Map::from_iter([("name".to_string(), Value::from(self.policy.name()))]);
        all.extend(self.policy.settings().clone());
        if let Some(algorithm) = &self.algorithm {
            let algorithm = serde_json::to_value(algorithm).unwrap_or_default();
            all.insert(ALGORITHM.to_string(), algorithm);
        }
        all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PolicySection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = || -> Result<Self, String> {
            let chosen = Value::deserialize(deserializer).map_err(|error| error.to_string())?;
            let (name, mut settings) =
                name_and_settings(chosen).map_err(|expected| format!("policy: {expected}"))?;
            let algorithm = settings.remove(ALGORITHM);
            let policy = PolicyConfig::with_settings(&name, settings);
            Self::of(policy.map_err(|error| error.to_string())?, algorithm)
        };
        read().map_err(D::Error::custom)
    }
}
