//! Settings that several algorithms have.

use std::ops::RangeInclusive;

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

/// What losses can be multiplied by, at most.
const WEIGHT: f32 = 1000.0;
/// Below, the noise's logarithms overflow; above, nothing but noise is left.
const TEMPERATURES: RangeInclusive<f32> = 0.001..=1000.0;
/// Of counts: tries and repetitions.
const MOST: usize = 1024;

/// # Errors
///
/// Where the number is not above 0, or so large that losses overflow.
pub fn positive(key: &str, value: f32) -> Result<f32, String> {
    if value > 0.0 && value <= WEIGHT {
        Ok(value)
    } else {
        Err(format!(
            "{key} = {value}: must be above 0 and at most {WEIGHT}"
        ))
    }
}

/// # Errors
///
/// Where decisions cannot be so noisy.
pub(super) fn temperature(value: f32) -> Result<f32, String> {
    if TEMPERATURES.contains(&value) {
        return Ok(value);
    }
    let (key, least, most) = (TEMPERATURE.key, TEMPERATURES.start(), TEMPERATURES.end());
    Err(format!("{key} = {value}: must be from {least} to {most}"))
}

/// # Errors
///
/// Where the number is less than `least`, or more than anyone can wait for.
pub fn at_least(key: &str, value: usize, least: usize) -> Result<usize, String> {
    if (least..=MOST).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{key} = {value}: must be from {least} to {MOST}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_with_their_range() {
        for value in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e9] {
            let message = temperature(value).unwrap_err();
            assert_eq!(
                message,
                format!("temperature = {value}: must be from 0.001 to 1000")
            );
            let message = positive("agent_loss_weight", value).unwrap_err();
            assert_eq!(
                message,
                format!("agent_loss_weight = {value}: must be above 0 and at most 1000")
            );
        }
        let message = at_least("group_size", 1 << 62, 2).unwrap_err();
        assert!(message.contains("must be from 2 to 1024"), "{message}");
        assert!(at_least("group_size", 1, 2).is_err() && at_least("group_size", 2, 2).is_ok());
    }
}
