use apt_vit_model::{FlopsCount, Placement, TokenReducer, VitConfig, vit_flops};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::tome::{Tome, TomeSettings};
use crate::allocation::{AllocationReducer, Asked, Chooser, check_share};
use crate::schedule_tree::ScheduleTree;
use crate::{AgentError, Budgeting, Policy, PolicySettings, Selection};

/// The golden ratio's fraction, in units of 2^-64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Settings of [`RandomAllocation`]: there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomAllocationSettings {}

impl PolicySettings for RandomAllocationSettings {
    const NAME: &'static str = "random-allocation";
    const SUMMARY: &'static str = "gives images the schedules that `allocate` gives, as often, but at random: what looking at \
                                   the image is worth (`aptvit prune` counts them; before that, as `tome`)";
    type Policy = RandomAllocation;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<RandomAllocation, AgentError> {
        let tree = ScheduleTree::new(model);
        let tome = TomeSettings::default().init(model, device)?;
        let dense = vit_flops(model, &[], 0) as f64;
        let share = |schedule| {
            let trace = tree.trace(model, schedule);
            let own = trace.iter();
            let own = own.map(|entry| tome.flops(model, entry.seen[0], entry.left[0]));
            (own.sum::<u64>() + vit_flops(model, &trace, 0)) as f64 / dense
        };
        Ok(RandomAllocation {
            flops: (0..tree.schedules()).map(share).collect(),
            tome,
            tree,
        })
    }
}

/// Schedules dealt at random, by the seed of each image.
#[derive(Module, Debug)]
pub struct RandomAllocation {
    tome: Tome,
    #[module(skip)]
    tree: ScheduleTree,
    /// Per schedule, its share of the dense FLOPs.
    #[module(skip)]
    flops: Vec<f64>,
}

impl Policy for RandomAllocation {
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
        match selection {
            Selection::Schedules { shares } => {
                let chooser = AtRandom {
                    shares: shares.clone(),
                    seeds: seeds.to_vec(),
                };
                Box::new(AllocationReducer::new(&self.tree, chooser))
            }
            _ => self.tome.reducer(selection, seeds),
        }
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        self.tome.flops(model, seen, left)
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        check_share(&self.flops, share)?;
        self.tome.kept_for(model, share)
    }

    fn budgeting(&self) -> Budgeting {
        Budgeting::Allocation
    }

    /// The distribution of the largest entropy whose mean share of the FLOPs is the same. Below a price of 1 it prefers
    /// schedules that compute more.
    fn at_price(&self, price: f64) -> Selection {
        let slope = price.ln();
        let weights = self.flops.iter().map(|share| (-slope * share).exp());
        let sum: f64 = weights.clone().sum();
        let shares = weights.map(|weight| weight / sum).collect();
        Selection::Schedules { shares }
    }
}

struct AtRandom {
    shares: Vec<f64>,
    seeds: Vec<u64>,
}

impl AtRandom {
    fn schedule(&self, image: usize) -> usize {
        let seed = self.seeds.get(image).copied().unwrap_or(image as u64);
        // A Weyl sequence: images in a row get every schedule as often as it is due, also where they are few.
        let mut rest = seed.wrapping_mul(GOLDEN) as f64 / 2f64.powi(64);
        let mut shares = self.shares.iter();
        let drawn = shares.position(|share| {
            rest -= share;
            rest < 0.0
        });
        drawn.unwrap_or(0)
    }
}

impl Chooser for AtRandom {
    fn observes(&self) -> bool {
        false
    }

    fn choose(&self, _: usize, asked: &[Asked]) -> Vec<usize> {
        let asked = asked.iter();
        asked.map(|asked| self.schedule(asked.image)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_come_as_often_as_said_and_the_same_for_the_same_seed() {
        let dealer = AtRandom {
            shares: vec![0.25, 0.0, 0.75],
            seeds: (0..2000).collect(),
        };
        let drawn: Vec<usize> = (0..2000).map(|image| dealer.schedule(image)).collect();
        let of = |schedule| drawn.iter().filter(|&&drawn| drawn == schedule).count();
        assert!((of(0) as f64 / 2000.0 - 0.25).abs() < 0.03, "{}", of(0));
        assert_eq!(of(1), 0);
        assert_eq!(dealer.schedule(7), drawn[7]);
    }
}
