//! What a sweep is to do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::policy::SweptPolicy;

/// Policies x budgets x seeds, all trained from one start for as many image passes.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The run whose best dense checkpoint all start from.
    pub start: PathBuf,
    /// Who is compared.
    pub policies: Vec<SweptPolicy>,
    /// Shares of the dense FLOPs. One training serves all.
    pub flops: Vec<f64>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Images that each training learns from.
    pub passes: usize,
    /// What all configs say beside the start's own, as `key=value`.
    pub overrides: Vec<String>,
    /// Which images the cells are measured on.
    pub measured_on: MeasuredOn,
}

/// Which images a sweep's cells are measured on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MeasuredOn {
    /// The test images.
    #[default]
    Test,
    /// Images that the start held out from training, those excepted by which budgets are met: to
    /// choose among policies and settings without a look at the test images.
    HeldOut,
}
