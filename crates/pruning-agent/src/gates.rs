//! A gate for each decision point, and what decides with them.

use apt_vit_model::host::{read, upload};
use apt_vit_model::{FlopsCount, Placement, TokenReducer, VitConfig, vit_flops};
use burn::module::Module;
use burn::prelude::*;

use crate::allocation::{AllocationReducer, Asked, Chooser, check_share};
use crate::budget::kept_at_equal_counts;
use crate::image_features::feature_count;
use crate::networks::{Gate, GateConfig};
use crate::policies::{Tome, TomeSettings};
use crate::schedule_tree::ScheduleTree;
use crate::{AgentError, Budgeting, Policy, PolicySettings, Selection};

/// What prices are told in: their logarithm is divided by this.
const OF_PRICE: f64 = 1.5;

/// Networks that choose for each image, at each decision point of a [`ScheduleTree`], how much of it merges: the schedule of
/// which divergence plus price times FLOPs is foreseen to be least, the FLOPs as a share of the dense model's.
#[derive(Module, Debug)]
pub struct Gates {
    /// One for each decision point.
    pub gates: Vec<Gate>,
    tome: Tome,
    #[module(skip)]
    tree: ScheduleTree,
    /// Per schedule, the share of the dense FLOPs, the gates' own included.
    #[module(skip)]
    shares: Vec<f64>,
    /// What one image's decisions cost, spread over the blocks in which patches can merge.
    #[module(skip)]
    own: FlopsCount,
}

impl Gates {
    /// Gates that know nothing yet.
    ///
    /// # Errors
    ///
    /// Where the model has no block in which patches can merge.
    pub fn init(model: &VitConfig, device: &Device) -> Result<Self, AgentError> {
        let tree = ScheduleTree::new(model);
        let features = feature_count(model.hidden_size);
        let points = 0..tree.points().len();
        let gates = points.map(|point| {
            GateConfig::new(features, tree.nodes(point), tree.below(point)).init(device)
        });
        let mut gates = Self {
            gates: gates.collect(),
            tome: TomeSettings::default().init(model, device)?,
            tree,
            shares: Vec::new(),
            own: 0,
        };
        gates.own = gates.decisions(model) / gates.tree.blocks().len().max(1) as u64;
        let dense = vit_flops(model, &[], 0) as f64;
        let schedules = 0..gates.tree.schedules();
        gates.shares = schedules
            .map(|schedule| gates.schedule_flops(model, schedule) as f64 / dense)
            .collect();
        Ok(gates)
    }

    /// Has anything been learned?
    pub fn are_taught(&self) -> bool {
        let mut gates = self.gates.iter();
        gates.any(|gate| read(gate.scale.val()).iter().any(|&scale| scale != 0.0))
    }

    /// The schedules that it chooses from.
    pub fn tree(&self) -> &ScheduleTree {
        &self.tree
    }

    /// Per schedule, the share of the dense FLOPs that it computes, the gates' own included.
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// The logarithm of a price as the gates are told it.
    pub fn told_price(price: f64) -> f32 {
        (price.max(f64::MIN_POSITIVE).ln() / OF_PRICE) as f32
    }

    /// All decisions about one image: what gates compute, the matching and CLS's attention that they see.
    fn decisions(&self, model: &VitConfig) -> FlopsCount {
        let tokens = model.num_tokens();
        let attention = 2 * (tokens * model.hidden_size) as u64;
        let seen = attention + self.tome.matching_flops(model, tokens);
        self.gates.iter().map(|gate| gate.flops() + seen).sum()
    }

    fn schedule_flops(&self, model: &VitConfig, schedule: usize) -> FlopsCount {
        let trace = self.tree.trace(model, schedule);
        let entries = trace.iter();
        let own = entries.map(|entry| self.flops(model, entry.seen[0], entry.left[0]));
        own.sum::<u64>() + vit_flops(model, &trace, 0)
    }

    /// Row by row, the schedule of least cost below a node: `foreseen`, `[rows, schedules]`, are logarithms of divergences.
    pub fn cheapest(
        &self,
        point: usize,
        nodes: &[usize],
        foreseen: &[f32],
        price: f64,
    ) -> Vec<usize> {
        let below = self.tree.below(point);
        let rows = nodes.iter().zip(foreseen.chunks_exact(below));
        let of_row = |(&node, row): (&usize, &[f32])| {
            let first = node * below;
            let cost =
                |place: usize| f64::from(row[place]).exp() / price + self.shares[first + place];
            let places = 0..below;
            let best = places.min_by(|&a, &b| cost(a).total_cmp(&cost(b)));
            first + best.unwrap_or(0)
        };
        rows.map(of_row).collect()
    }
}

impl Policy for Gates {
    fn blocks(&self) -> &[usize] {
        self.tome.blocks()
    }

    fn placement(&self) -> Placement {
        self.tome.placement()
    }

    /// What merges by a price, or the same in every image.
    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        seeds: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        match selection {
            Selection::Price { price } => {
                let chooser = ByPrice {
                    gates: self,
                    price: *price,
                };
                Box::new(AllocationReducer::new(&self.tree, chooser))
            }
            _ => self.tome.reducer(selection, seeds),
        }
    }

    /// FLOPs of its decision in one block; where none is made in it, what it bears of those of the others.
    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        self.own + self.tome.flops(model, seen, left)
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        check_share(&self.shares, share)?;
        kept_at_equal_counts(self, model, share)
    }

    fn budgeting(&self) -> Budgeting {
        if self.are_taught() {
            Budgeting::Allocation
        } else {
            Budgeting::Counts
        }
    }
}

struct ByPrice<'a> {
    gates: &'a Gates,
    price: f64,
}

impl Chooser for ByPrice<'_> {
    fn observes(&self) -> bool {
        true
    }

    fn choose(&self, point: usize, asked: &[Asked]) -> Vec<usize> {
        let gate = &self.gates.gates[point];
        let device = gate.center.val().device();
        let nodes: Vec<usize> = asked.iter().map(|asked| asked.node).collect();
        let rows = asked.len();
        let features: Vec<f32> = asked
            .iter()
            .flat_map(|asked| asked.features.iter().copied())
            .collect();
        let [_, width] = gate.center.dims();
        let features = upload(features, [rows, width], &device);
        let told = Gates::told_price(self.price);
        let foreseen = read(gate.foresee(gate.standard(features, &nodes), told));
        self.gates.cheapest(point, &nodes, &foreseen, self.price)
    }
}
