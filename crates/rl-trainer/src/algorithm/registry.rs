//! The algorithms there are, by name.

use std::sync::{PoisonError, RwLock};

use super::counterfactual::CounterfactualSettings;
use super::dynamic_vit::DynamicVitSettings;
use super::entry::{AlgorithmEntry, AlgorithmSettings};
use super::first_order::FirstOrderSettings;
use super::policy_gradient::PolicyGradientSettings;
use super::ppo::PpoSettings;

/// The built-in algorithms.
static BUILT_IN: &[AlgorithmEntry] = &[
    AlgorithmEntry::of::<CounterfactualSettings>(),
    AlgorithmEntry::of::<FirstOrderSettings>(),
    AlgorithmEntry::of::<PolicyGradientSettings>(),
    AlgorithmEntry::of::<PpoSettings>(),
    AlgorithmEntry::of::<DynamicVitSettings>(),
];

static ADDED: RwLock<Vec<AlgorithmEntry>> = RwLock::new(Vec::new());

/// Adds an algorithm that is defined elsewhere: from then on policies that name it can learn by it. One of the same name
/// takes the place of what was added before.
///
/// # Errors
///
/// Where a built-in algorithm has the name.
pub fn register_algorithm<S: AlgorithmSettings>() -> Result<(), String> {
    if BUILT_IN.iter().any(|entry| entry.name == S::NAME) {
        let name = S::NAME;
        return Err(format!(
            "there is a built-in algorithm `{name}`: register yours under another name"
        ));
    }
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    added.retain(|entry| entry.name != S::NAME);
    added.push(AlgorithmEntry::of::<S>());
    Ok(())
}

/// Every algorithm: the built-in ones, then those that were added.
pub fn algorithms() -> Vec<AlgorithmEntry> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    BUILT_IN.iter().chain(added.iter()).copied().collect()
}

/// The algorithm of this name.
///
/// # Errors
///
/// Where there is none; the error names those that there are.
pub fn algorithm_entry(name: &str) -> Result<AlgorithmEntry, String> {
    let all = algorithms();
    let found = all.iter().find(|entry| entry.name == name);
    found.copied().ok_or_else(|| {
        let known: Vec<String> = all
            .iter()
            .map(|entry| format!("`{}`", entry.name))
            .collect();
        format!(
            "unknown variant `{name}`, expected one of {}",
            known.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_pruning_agent::policies;
    use std::collections::BTreeSet;

    #[test]
    fn every_setting_of_every_algorithm_has_a_meaning() {
        for entry in algorithms() {
            let defaults = entry.defaults();
            let keys: BTreeSet<&str> = defaults.keys().map(String::as_str).collect();
            let described: BTreeSet<&str> = entry.meanings.iter().map(|m| m.key).collect();
            assert_eq!(keys, described, "{}", entry.name);
        }
    }

    #[test]
    fn every_policy_names_algorithms_that_there_are() {
        for policy in policies() {
            for name in policy.algorithms {
                algorithm_entry(name).unwrap();
            }
        }
    }
}
