//! The setting `threshold` of policies that prune without a budget.

use crate::{AgentError, Meaning};

/// Log-odds beyond which no agent's opinion lies.
pub const MOST_LOG_ODDS: f64 = 40.0;

/// What it means.
pub(crate) const THRESHOLD: Meaning = Meaning {
    key: "threshold",
    meaning: "without a budget, a token goes where its removal is more probable than this",
};

/// # Errors
///
/// Where it is no probability.
pub(crate) fn check_threshold(threshold: f64) -> Result<(), AgentError> {
    if (0.0..=1.0).contains(&threshold) {
        return Ok(());
    }
    Err(AgentError::Setting {
        key: THRESHOLD.key,
        found: threshold.to_string(),
        expected: "must be a probability, from 0 to 1".into(),
    })
}
