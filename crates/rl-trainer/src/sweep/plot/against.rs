//! What accuracy is drawn against.

use super::super::cell::Cell;

/// What accuracy is drawn against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Counted FLOPs, as a share of the dense model's.
    Flops,
    /// Measured time of an image, as a share of that of the same weights run dense.
    Time,
}

impl Against {
    /// The name of its files: `accuracy-flops` or `accuracy-time`.
    pub fn file_stem(self) -> &'static str {
        match self {
            Self::Flops => "accuracy-flops",
            Self::Time => "accuracy-time",
        }
    }

    pub(super) fn value(self, cell: &Cell) -> f64 {
        100.0
            * match self {
                Self::Flops => cell.flops_share,
                Self::Time => 1.0 / cell.speed_up(),
            }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Flops => "Accuracy against counted FLOPs",
            Self::Time => "Accuracy against measured time",
        }
    }

    pub(super) fn axis(self) -> &'static str {
        match self {
            Self::Flops => "FLOPs per image (% of the dense model's)",
            Self::Time => "measured time per image (% of the dense model's)",
        }
    }
}
