use apt_vit_model::{FlopsCount, Placement, TokenReducer, VitConfig};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::budget::kept_at_equal_counts;
use crate::gates::Gates;
use crate::{AgentError, Budgeting, Policy, PolicySettings, Selection};

/// Settings of [`Regression`]: there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegressionSettings {}

impl PolicySettings for RegressionSettings {
    const NAME: &'static str = "regression";
    const SUMMARY: &'static str = "`allocate` without reinforcement: its gates foresee the divergence that each schedule leads \
                                   to, taught by regression (`aptvit prune`), and the cheapest at the price is chosen; \
                                   before that, as `tome`";
    type Policy = Regression;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Regression, AgentError> {
        Ok(Regression {
            gates: Gates::init(model, device)?,
        })
    }
}

/// Allocation by forecast: the same gates as [`Allocate`](crate::Allocate)'s, taught to foresee the logarithm of each
/// schedule's divergence and nothing else.
#[derive(Module, Debug)]
pub struct Regression {
    /// What decides.
    pub gates: Gates,
}

impl Policy for Regression {
    fn blocks(&self) -> &[usize] {
        self.gates.tome().blocks()
    }

    fn placement(&self) -> Placement {
        self.gates.tome().placement()
    }

    fn reducer<'a>(&'a self, selection: &Selection, seeds: &[u64]) -> Box<dyn TokenReducer + 'a> {
        self.gates.reducer(selection, seeds)
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        self.gates.flops(model, seen, left)
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        self.gates.check_share(share)?;
        kept_at_equal_counts(self, model, share)
    }

    fn budgeting(&self) -> Budgeting {
        if self.gates.are_taught() {
            Budgeting::Allocation
        } else {
            Budgeting::Counts
        }
    }
}
