//! Settings that several algorithms have.

use apt_pruning_agent::Meaning;

/// What the policy's losses are multiplied by.
pub const AGENT_LOSS_WEIGHT: Meaning = Meaning {
    key: "agent_loss_weight",
    meaning: "what the policy's losses are multiplied by; gradients are clipped together, so that large ones of the policy \
              shrink the model's",
};

/// Decisions that are tried on each image.
pub const GROUP_SIZE: Meaning = Meaning {
    key: "group_size",
    meaning: "decisions that are tried on each image in each pass; each is judged by the others",
};

/// The noise on decisions.
pub const TEMPERATURE: Meaning = Meaning {
    key: "temperature",
    meaning: "of the noise on decisions",
};

/// # Errors
///
/// Where the number is not above 0.
pub fn positive(key: &str, value: f32) -> Result<f32, String> {
    if value > 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err(format!("{key} = {value}: must be above 0"))
    }
}

/// # Errors
///
/// Where the number is less than `least`.
pub fn at_least(key: &str, value: usize, least: usize) -> Result<usize, String> {
    if value >= least {
        Ok(value)
    } else {
        Err(format!("{key} = {value}: must be at least {least}"))
    }
}
