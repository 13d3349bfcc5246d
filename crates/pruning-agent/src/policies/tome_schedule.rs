use apt_vit_model::{FlopsCount, Placement, TokenReducer, VitConfig};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::tome::{Tome, TomeSettings};
use crate::proportion::{PROPORTION, PUBLISHED};
use crate::{AgentError, Budgeting, Meaning, Policy, PolicySettings, Selection};

/// Settings of [`TomeSchedule`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TomeScheduleSettings {
    /// How much more merged tokens are attended to.
    pub proportion: f64,
}

impl Default for TomeScheduleSettings {
    fn default() -> Self {
        Self {
            proportion: PUBLISHED,
        }
    }
}

impl PolicySettings for TomeScheduleSettings {
    const NAME: &'static str = "tome-schedule";
    const SUMMARY: &'static str = "merges the most similar patches, in each block as many as a search on images found best \
                                   (after DiffRate; Chen et al., 2023); before a search, as `tome`";
    const MEANINGS: &'static [Meaning] = &[PROPORTION];
    type Policy = TomeSchedule;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<TomeSchedule, AgentError> {
        Ok(TomeSchedule {
            tome: TomeSettings {
                proportion: self.proportion,
            }
            .init(model, device)?,
        })
    }
}

/// ToMe's merges with a number of its own for each block, the same for every image. The numbers are searched on images for
/// the least divergence from the dense model's answers at a share of the FLOPs.
///
/// DiffRate (Chen et al., "DiffRate: Differentiable Compression Rate for Efficient Vision Transformers", 2023, section
/// 3.2) asks the same question, and answers it by gradient descent with labels. Here, nothing but merging is
/// scheduled, and a search tries whole passes, without labels.
#[derive(Module, Debug)]
pub struct TomeSchedule {
    tome: Tome,
}

impl Policy for TomeSchedule {
    fn blocks(&self) -> &[usize] {
        self.tome.blocks()
    }

    fn placement(&self) -> Placement {
        self.tome.placement()
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        seeds: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        self.tome.reducer(selection, seeds)
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        self.tome.flops(model, seen, left)
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        self.tome.kept_for(model, share)
    }

    fn budgeting(&self) -> Budgeting {
        Budgeting::Schedule
    }
}
