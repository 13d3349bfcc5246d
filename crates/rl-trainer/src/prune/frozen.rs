//! A policy of any kind learns on a frozen model.

use apt_pruning_agent::{AnyPolicy, PolicyConfig};

use super::agents::{AgentSettings, FrozenModel, fresh};
use super::candidate::restores;
use super::exits::learn_exits;
use super::parking::learn_parking;
use super::restoring::learn_restoring;
use super::sensitivity::learn_sensitivity;
use crate::TrainerError;

/// The share of the learning that agents have where there are exits, too.
const AGENTS: f64 = 0.8;
/// The share that reading parked tokens has.
const READING: f64 = 0.3;

/// A policy that learned what it can on the frozen model: to read what it parks, then its agents, then its exits beside them. `go_on` is told the
/// share that is over, and says whether to go on.
///
/// # Errors
///
/// Where a budget cannot be met, an image cannot be read, or the model's answer to it is no number.
pub fn learn_on_frozen(
    frozen: &FrozenModel<'_>,
    config: &PolicyConfig,
    settings: &AgentSettings,
    mut go_on: impl FnMut(f64) -> bool,
) -> Result<AnyPolicy, TrainerError> {
    let mut policy = fresh(frozen, config, settings.seed)?;
    let (has_agents, has_exits) = (policy.agents().is_some(), policy.exits().is_some());
    let reads = if policy.parks() { READING } else { 0.0 };
    if policy.parks() {
        let go_on = |share| go_on(reads * share);
        policy = learn_parking(frozen, policy, settings.seed, go_on)?;
    }
    let ends = if has_exits { AGENTS } else { 1.0 };
    if restores(config) {
        policy = learn_restoring(frozen, policy, settings, &mut go_on)?;
    } else if has_agents {
        let go_on = |share| go_on(reads + (ends - reads) * share);
        policy = learn_sensitivity(frozen, policy, settings, go_on)?;
    }
    if !has_exits {
        return Ok(policy);
    }
    let begun = if has_agents { AGENTS } else { 0.0 };
    let go_on = |share| go_on(begun + (1.0 - begun) * share);
    learn_exits(frozen, policy, settings.seed, go_on)
}
