use apt_vit_model::{
    FlopsCount, Observation, Placement, Reduction, TokenReducer, UniformObservation,
    UniformReducer, UniformReduction, VitConfig,
};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::budget::kept_at_equal_rates;
use crate::{AgentError, BudgetUse, Policy, PolicySettings, Selection};

/// Settings of [`Dense`]: there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseSettings {}

impl PolicySettings for DenseSettings {
    const NAME: &'static str = "dense";
    const SUMMARY: &'static str = "removes nothing: the baseline";
    const BUDGET: BudgetUse = BudgetUse::Impossible;
    type Policy = Dense;

    fn init(&self, _: &VitConfig, _: &Device) -> Result<Dense, AgentError> {
        Ok(Dense { blocks: Vec::new() })
    }
}

/// Removes nothing: the baseline.
#[derive(Module, Debug)]
pub struct Dense {
    #[module(skip)]
    blocks: Vec<usize>,
}

impl Policy for Dense {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn reducer<'a>(&'a self, _: &Selection, _: &[u64]) -> Box<dyn TokenReducer + Sync + 'a> {
        Box::new(NoReducer)
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_rates(self, model, share)
    }

    fn flops(&self, _: &VitConfig, _: usize, _: usize) -> FlopsCount {
        0
    }
}

struct NoReducer;

impl TokenReducer for NoReducer {
    fn placement(&self, _: usize) -> Option<Placement> {
        None
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn uniform(&self) -> Option<&dyn UniformReducer> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        Reduction::none(observation.sequences)
    }
}

impl UniformReducer for NoReducer {
    fn reduce_uniformly(&self, _: &UniformObservation) -> Option<UniformReduction> {
        None
    }
}
