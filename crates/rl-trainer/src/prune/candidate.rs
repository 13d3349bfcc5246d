//! Policies that could be chosen.

use apt_inference::{Answers, Budget};
use apt_pruning_agent::{
    AgentError, AllocateSettings, AnyPolicy, AptPlusSettings, EarlyExitSettings, FilterSettings,
    PairsSettings, ParkSettings, PolicyConfig, PolicySettings, RandomAllocationSettings,
    RegressionSettings,
};
use serde_json::{Map, Value};

/// A policy that is fitted to the budgets.
pub(crate) struct Candidate {
    /// Which it is.
    pub config: PolicyConfig,
    /// With its weights.
    pub policy: AnyPolicy,
    /// One for each target.
    pub budgets: Vec<Budget>,
    /// How far answers move on held-out images, per budget; none where nobody asks.
    pub divergence: Vec<f64>,
}

/// Do its gates learn from explored images?
pub(crate) fn is_taught(name: &str) -> bool {
    [
        AllocateSettings::NAME,
        RegressionSettings::NAME,
        RandomAllocationSettings::NAME,
    ]
    .contains(&name)
}

/// The policy of a name with some settings, for a model of this width that is frozen.
///
/// # Errors
///
/// Where there is no such policy, or it has no such setting.
pub(crate) fn config_for(
    name: &str,
    mut settings: Map<String, Value>,
    hidden_size: usize,
) -> Result<PolicyConfig, AgentError> {
    let merging = [
        PairsSettings::NAME,
        ParkSettings::NAME,
        AptPlusSettings::NAME,
    ];
    if merging.contains(&name) {
        // With some hundreds of images, agents four times as wide were no better, and their FLOPs count.
        let width = (hidden_size / 24).max(4);
        settings.entry("width").or_insert(width.into());
    }
    PolicyConfig::with_settings(name, settings)
}

/// Do its agents learn on the frozen model how far the answer moves?
pub(crate) fn learns(policy: &PolicyConfig) -> bool {
    policy.entry().algorithms.contains(&"first-order")
}

/// Can it answer images early?
pub(crate) fn exits(policy: &PolicyConfig) -> bool {
    [AptPlusSettings::NAME, EarlyExitSettings::NAME].contains(&policy.name())
}

/// Does it park what it removes?
pub(crate) fn parks(policy: &PolicyConfig) -> bool {
    policy.name() == ParkSettings::NAME
}

/// Does it learn on a frozen model, other than by gates?
pub(crate) fn learns_on_frozen(policy: &PolicyConfig) -> bool {
    learns(policy) || restores(policy) || exits(policy) || parks(policy)
}

/// Do its agents learn which patches do not belong to an image?
pub(crate) fn restores(policy: &PolicyConfig) -> bool {
    policy.name() == FilterSettings::NAME
}

/// The candidate of the least divergence over all budgets (the geometric mean), and why it is the best.
pub(crate) fn best(
    candidates: Vec<Candidate>,
    answers: Answers,
    learned_from: usize,
) -> Option<(Candidate, String)> {
    let logarithm = |candidate: &Candidate| {
        let found = candidate.divergence.iter();
        let sum: f64 = found.map(|divergence| (divergence + 1e-6).ln()).sum();
        sum / candidate.divergence.len().max(1) as f64
    };
    let mut ranked = candidates;
    ranked.sort_by(|a, b| logarithm(a).total_cmp(&logarithm(b)));
    let shown = ranked.iter().map(|candidate| {
        let found = candidate.divergence.iter();
        let found: Vec<String> = found.map(|divergence| format!("{divergence:.4}")).collect();
        format!("{} {}", candidate.config.name(), found.join(" / "))
    });
    let shown: Vec<String> = shown.collect();
    let chosen = (!ranked.is_empty()).then(|| ranked.remove(0))?;
    let why = match (ranked.is_empty(), learned_from) {
        (false, _) => format!(
            "least {} on held-out images: {}",
            answers.divergence(),
            shown.join(", ")
        ),
        (true, 0) => "it was asked for; nothing is learned".into(),
        (true, images) => format!("it was asked for, and learned from {images} images"),
    };
    Some((chosen, why))
}
