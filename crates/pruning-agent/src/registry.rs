//! The policies there are, by name. Config, command line, sweeps, docs and tests read it.

use std::sync::{PoisonError, RwLock};

use crate::AgentError;
use crate::entry::{PolicyEntry, PolicySettings};
use crate::policies::{
    AllocateSettings, AptPlusSettings, AptSettings, AttentiveSettings, CascadeSettings,
    ClsAttentionSettings, DenseSettings, DynamicVitSettings, EarlyExitSettings, EvitSettings,
    FilterSettings, PairsSettings, ParkSettings, PitomeSettings, RandomAllocationSettings,
    RandomSettings, RegressionSettings, TomeScheduleSettings, TomeSettings, TomeThresholdSettings,
};

/// The built-in policies, in the order in which they are shown.
static BUILT_IN: &[PolicyEntry] = &[
    PolicyEntry::of::<DenseSettings>(),
    PolicyEntry::of::<AllocateSettings>(),
    PolicyEntry::of::<PairsSettings>(),
    PolicyEntry::of::<AptPlusSettings>(),
    PolicyEntry::of::<EarlyExitSettings>(),
    PolicyEntry::of::<ParkSettings>(),
    PolicyEntry::of::<TomeSettings>(),
    PolicyEntry::of::<PitomeSettings>(),
    PolicyEntry::of::<TomeThresholdSettings>(),
    PolicyEntry::of::<TomeScheduleSettings>(),
    PolicyEntry::of::<CascadeSettings>(),
    PolicyEntry::of::<AttentiveSettings>(),
    PolicyEntry::of::<AptSettings>(),
    PolicyEntry::of::<FilterSettings>(),
    PolicyEntry::of::<EvitSettings>(),
    PolicyEntry::of::<ClsAttentionSettings>(),
    PolicyEntry::of::<DynamicVitSettings>(),
    PolicyEntry::of::<RegressionSettings>(),
    PolicyEntry::of::<RandomAllocationSettings>(),
    PolicyEntry::of::<RandomSettings>(),
];

static ADDED: RwLock<Vec<PolicyEntry>> = RwLock::new(Vec::new());

/// Adds a policy that is defined elsewhere: from then on its name is known in configs, sweeps and runs. One of the same
/// name takes the place of what was added before.
///
/// # Errors
///
/// Where a built-in policy has the name.
pub fn register_policy<S: PolicySettings>() -> Result<(), AgentError> {
    if BUILT_IN.iter().any(|entry| entry.name == S::NAME) {
        return Err(AgentError::Taken(S::NAME));
    }
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    added.retain(|entry| entry.name != S::NAME);
    added.push(PolicyEntry::of::<S>());
    Ok(())
}

/// Every policy: the built-in ones, then those that were added.
pub fn policies() -> Vec<PolicyEntry> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    BUILT_IN.iter().chain(added.iter()).copied().collect()
}

/// The policy of this name.
///
/// # Errors
///
/// Where there is none; the error names those that there are.
pub fn policy_entry(name: &str) -> Result<PolicyEntry, AgentError> {
    let all = policies();
    let found = all.iter().find(|entry| entry.name == name);
    found.copied().ok_or_else(|| AgentError::UnknownPolicy {
        found: name.to_string(),
        known: all.iter().map(|entry| entry.name).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value};
    use std::collections::BTreeSet;

    #[test]
    fn every_setting_of_every_policy_has_a_meaning_and_every_name_is_its_own() {
        let mut names = BTreeSet::new();
        for entry in policies() {
            assert!(names.insert(entry.name), "{} is there twice", entry.name);
            assert!(!entry.summary.is_empty());
            let wrong = Map::from_iter([("no-such-key".to_string(), Value::Null)]);
            let refused = (entry.complete)(wrong).unwrap_err();
            let known: BTreeSet<&str> = refused.split('`').skip(3).step_by(2).collect();
            let meanings = entry.meanings.iter();
            let described: BTreeSet<&str> = meanings.map(|meaning| meaning.key).collect();
            assert_eq!(known, described, "{}: {refused}", entry.name);
        }
    }
}
