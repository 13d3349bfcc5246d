//! A policy of any kind learns on a frozen model.

use apt_inference::initialize;
use apt_pruning_agent::{AnyPolicy, PolicyConfig};

use super::agents::{AgentSettings, FrozenModel};
use super::candidate::restores;
use super::exits::learn_exits;
use super::restoring::learn_restoring;
use super::sensitivity::learn_sensitivity;
use crate::TrainerError;

/// The share of the learning that agents have where there are exits, too.
const AGENTS: f64 = 0.8;

/// A policy that learned what it can on the frozen model: its agents first, then its exits beside them. `go_on` is told the
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
    let fresh = config.init(frozen.model.config(), frozen.device)?;
    let (has_agents, has_exits) = (fresh.agents().is_some(), fresh.exits().is_some());
    let part = if has_exits { AGENTS } else { 1.0 };
    let policy = if restores(config) {
        learn_restoring(frozen, config, settings, &mut go_on)?
    } else if has_agents {
        learn_sensitivity(frozen, config, settings, |share| go_on(part * share))?
    } else {
        frozen.device.seed(settings.seed);
        let policy = config.init(frozen.model.config(), frozen.device)?;
        initialize(&policy);
        policy
    };
    if !has_exits {
        return Ok(policy);
    }
    let begun = if has_agents { AGENTS } else { 0.0 };
    let go_on = |share| go_on(begun + (1.0 - begun) * share);
    learn_exits(frozen, policy, settings.seed, go_on)
}
