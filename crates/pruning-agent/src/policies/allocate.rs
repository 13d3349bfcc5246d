use apt_vit_model::{FlopsCount, Placement, TokenReducer, VitConfig};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::budget::kept_at_equal_counts;
use crate::gates::Gates;
use crate::{AgentError, Budgeting, Policy, PolicySettings, Selection};

/// Settings of [`Allocate`]: there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocateSettings {}

impl PolicySettings for AllocateSettings {
    const NAME: &'static str = "allocate";
    const SUMMARY: &'static str = "decides for each image how much merges, in three steps, by what the first blocks show of \
                                   it; which patches merge is ToMe's choice. `aptvit prune` teaches it on a frozen model by \
                                   the exact expected reward; before that, as `tome`";
    type Policy = Allocate;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Allocate, AgentError> {
        Ok(Allocate {
            gates: Gates::init(model, device)?,
        })
    }
}

/// Learned allocation: gates choose for each image how much merges in the coming blocks, given what they see of it and the
/// price of computing. Reinforcement teaches them, with the frozen model as the environment: the reward is minus the
/// divergence of the answer minus the price of the FLOPs.
#[derive(Module, Debug)]
pub struct Allocate {
    /// What decides.
    pub gates: Gates,
}

impl Policy for Allocate {
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
