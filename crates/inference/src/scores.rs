//! What a run's best checkpoint is chosen by: `scores.json`.

use std::collections::BTreeMap;
use std::path::Path;

use apt_data::read_text;
use serde::{Deserialize, Serialize};

use crate::InferenceError;
use crate::checksum::Checksum;
use crate::description::FORMAT;
use crate::files::{to_json, write_whole};

/// What to do about damaged scores.
const ADVICE: &str = "copy the file again, or choose the newest checkpoint with --checkpoint last; where you changed it \
                      yourself, remove its line `checksum`";
/// Scores are saved to so many parts of one. Such numbers are the same after they were written and read, so that equal
/// scores stay equal.
const PARTS_OF_ONE: f64 = 1e12;

/// How accurate an epoch's model was on the held-out images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochScores {
    /// Nothing removed.
    pub dense_accuracy: f64,
    /// With the policy acting.
    pub pruned_accuracy: f64,
}

impl EpochScores {
    /// As they are saved.
    pub(crate) fn rounded(self) -> Self {
        let round = |score: f64| (score * PARTS_OF_ONE).round() / PARTS_OF_ONE;
        Self {
            dense_accuracy: round(self.dense_accuracy),
            pruned_accuracy: round(self.pruned_accuracy),
        }
    }
}

/// By epoch.
pub(crate) type Epochs = BTreeMap<usize, EpochScores>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scores {
    format: u64,
    epochs: Epochs,
    /// Of `epochs`; earlier versions wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<Checksum>,
}

fn checksum_of(epochs: &Epochs) -> Result<Checksum, InferenceError> {
    Ok(Checksum::of_bytes(to_json(epochs)?.as_bytes()))
}

/// Reads the file; there may be none.
pub(crate) fn read(path: &Path) -> Result<Epochs, InferenceError> {
    if !path.is_file() {
        return Ok(Epochs::new());
    }
    let text = read_text(path)?;
    let damaged =
        |reason: String| InferenceError::folder(path, format!("is damaged ({reason}); {ADVICE}"));
    let scores: Scores = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if scores.format != FORMAT {
        return Err(damaged(format!("format {}, not {FORMAT}", scores.format)));
    }
    let epochs = scores.epochs.into_iter();
    let epochs = epochs
        .map(|(epoch, scores)| (epoch, scores.rounded()))
        .collect();
    if let Some(expected) = scores.checksum {
        checksum_of(&epochs)?.expect(expected, path, ADVICE)?;
    }
    Ok(epochs)
}

/// Writes the file, whole or not at all. Its checksum is in it: beside it, a kill could leave one without the other.
pub(crate) fn write(path: &Path, epochs: Epochs) -> Result<(), InferenceError> {
    let scores = Scores {
        format: FORMAT,
        checksum: Some(checksum_of(&epochs)?),
        epochs,
    };
    write_whole(path, to_json(&scores)?.as_bytes())
}

/// The first epoch with the highest score.
pub(crate) fn best(epochs: &Epochs, score: impl Fn(&EpochScores) -> f64) -> Option<usize> {
    let scored = epochs.iter().map(|(&epoch, scores)| (score(scores), epoch));
    let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, epoch)| epoch)
}
