//! Dynamic loss scaling (Micikevicius et al., "Mixed Precision Training", 2018, section 3.2).

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use apt_vit_model::Precision;
use serde::{Deserialize, Serialize};

use crate::TrainerError;

/// The first scale of half precision.
const FIRST: f32 = 65_536.0;
/// Steps without an overflow after which the scale doubles.
const GROWTH_STEPS: u64 = 2_000;
/// A scale below this does not explain an overflow.
const LEAST: f32 = 1.0;

/// What the loss is multiplied by, so that small gradients are not rounded to zero: halved when a
/// gradient overflows, doubled after many steps in which none did; 1 where gradients have the
/// range of 32-bit floats.
///
/// Changes are kept in a file, so that a training that goes on has the scale it would have had.
#[derive(Debug)]
pub(crate) struct LossScale {
    scale: f32,
    /// The step from which it holds.
    since: u64,
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Change {
    after_step: u64,
    scale: f32,
}

impl LossScale {
    /// Of a training of which `steps_done` steps stay, which keeps its changes in `folder`.
    pub fn open(
        precision: Precision,
        folder: &Path,
        steps_done: u64,
    ) -> Result<Self, TrainerError> {
        if precision != Precision::F16 {
            return Ok(Self::none());
        }
        let file = folder.join("loss_scale.jsonl");
        let text = if file.exists() {
            std::fs::read_to_string(&file).map_err(TrainerError::io(&file, "read"))?
        } else {
            String::new()
        };
        // A last line that was cut off is none.
        let changes = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let kept: Vec<Change> = changes
            .filter(|change: &Change| change.after_step <= steps_done)
            .collect();
        let lines: Vec<String> = kept
            .iter()
            .filter_map(|change| serde_json::to_string(change).ok())
            .map(|line| line + "\n")
            .collect();
        let partial = folder.join("loss_scale.jsonl.partial");
        std::fs::write(&partial, lines.concat()).map_err(TrainerError::io(&partial, "write"))?;
        std::fs::rename(&partial, &file).map_err(TrainerError::io(&file, "write"))?;
        let last = kept.last().copied().unwrap_or(Change {
            after_step: 0,
            scale: FIRST,
        });
        Ok(Self {
            scale: last.scale,
            since: last.after_step,
            file: Some(file),
        })
    }

    /// Always 1.
    pub fn none() -> Self {
        Self {
            scale: 1.0,
            since: 0,
            file: None,
        }
    }

    pub fn get(&self) -> f32 {
        self.scale
    }

    /// The gradients of step `step` (1-based) overflowed, or did not. Says whether the step is to
    /// be left out; an overflow that the scale does not explain is none of these.
    pub fn update(&mut self, step: u64, overflowed: bool) -> Result<Update, TrainerError> {
        if self.file.is_none() || (overflowed && self.scale <= LEAST) {
            return Ok(if overflowed {
                Update::Diverged
            } else {
                Update::Apply
            });
        }
        if overflowed {
            self.change(step, self.scale / 2.0)?;
            return Ok(Update::Skip);
        }
        if step - self.since >= GROWTH_STEPS && self.scale < f32::MAX / 4.0 {
            self.change(step, self.scale * 2.0)?;
        }
        Ok(Update::Apply)
    }

    fn change(&mut self, step: u64, scale: f32) -> Result<(), TrainerError> {
        (self.scale, self.since) = (scale, step);
        let Some(path) = &self.file else {
            return Ok(());
        };
        let change = Change {
            after_step: step,
            scale,
        };
        let line = serde_json::to_string(&change).unwrap_or_default();
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(TrainerError::io(path, "append to"))?;
        writeln!(file, "{line}").map_err(TrainerError::io(path, "append to"))
    }
}

/// What becomes of a step's gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    /// They change the weights.
    Apply,
    /// They overflowed, and are thrown away; the next ones are scaled by less.
    Skip,
    /// They are no numbers, and scaling is not why.
    Diverged,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_halves_the_scale_and_many_good_steps_double_it() {
        let folder = tempfile::tempdir().unwrap();
        let open = |steps| LossScale::open(Precision::F16, folder.path(), steps).unwrap();
        let mut scale = open(0);
        assert_eq!(scale.update(1, true).unwrap(), Update::Skip);
        assert_eq!(scale.update(2, true).unwrap(), Update::Skip);
        assert_eq!(scale.get(), FIRST / 4.0);
        for step in 3..2 + GROWTH_STEPS {
            assert_eq!(scale.update(step, false).unwrap(), Update::Apply);
        }
        assert_eq!(scale.get(), FIRST / 4.0);
        scale.update(2 + GROWTH_STEPS, false).unwrap();
        assert_eq!(scale.get(), FIRST / 2.0);

        // Goes on from any step as it was then; what came after is gone.
        assert_eq!(open(2 + GROWTH_STEPS).get(), FIRST / 2.0);
        let mut again = open(1 + GROWTH_STEPS);
        assert_eq!(again.get(), FIRST / 4.0);
        again.update(2 + GROWTH_STEPS, false).unwrap();
        assert_eq!(again.get(), FIRST / 2.0);
        assert_eq!(open(1).get(), FIRST / 2.0);
        assert_eq!(open(0).get(), FIRST);
    }

    #[test]
    fn an_overflow_without_scale_is_a_divergence() {
        let folder = tempfile::tempdir().unwrap();
        let mut scale = LossScale::open(Precision::F16, folder.path(), 0).unwrap();
        for step in 1..=16 {
            assert_eq!(scale.update(step, true).unwrap(), Update::Skip);
        }
        assert_eq!(scale.get(), LEAST);
        assert_eq!(scale.update(17, true).unwrap(), Update::Diverged);
        let mut none = LossScale::open(Precision::Bf16, folder.path(), 0).unwrap();
        assert_eq!(none.get(), 1.0);
        assert_eq!(none.update(1, true).unwrap(), Update::Diverged);
        assert_eq!(none.update(2, false).unwrap(), Update::Apply);
    }
}
