//! The setting `proportion` of policies that merge.

use crate::{AgentError, Meaning};

/// What it means.
pub(crate) const PROPORTION: Meaning = Meaning {
    key: "proportion",
    meaning: "how much more a token that stands for `n` patches is attended to than one patch: `n` to the power of this. 1 is as published. Where much merges \
              early, less may keep answers nearer to the dense model's",
};

/// As ToMe has it.
pub(crate) const PUBLISHED: f64 = 1.0;

/// # Errors
///
/// Where it is no number from 0 to 1.
pub(crate) fn check_proportion(proportion: f64) -> Result<f32, AgentError> {
    if (0.0..=1.0).contains(&proportion) {
        return Ok(proportion as f32);
    }
    Err(AgentError::Setting {
        key: PROPORTION.key,
        found: proportion.to_string(),
        expected: "must be a number from 0 to 1".into(),
    })
}
