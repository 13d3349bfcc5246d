//! All the ways in which an image can merge, as a tree of decisions.

use apt_vit_model::{Kept, LayerTrace, Placement, VitConfig};

/// Shares of an image's patches that merge from one decision point to the next, for each choice. The first is none.
const MERGED: [&[f64]; 3] = [
    &[0.0, 0.153, 0.276, 0.428, 0.612],
    &[0.0, 0.184, 0.367, 0.551],
    &[0.0, 0.327],
];
/// Where the decision points of a deep model are, as shares of its depth.
const PLACES: [f64; 3] = [1.0 / 12.0, 4.0 / 12.0, 7.0 / 12.0];

/// A block in which it is decided for each image how many patches merge in it and in each of the next blocks, up to the
/// next decision point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionPoint {
    /// The block (0-based).
    pub block: usize,
    /// The choices: merges in each of its blocks. The first one is 0.
    pub merges: Vec<usize>,
}

/// All schedules that an image can get: a choice at each decision point. Schedules are numbered so that those that begin
/// with the same choices are neighbours; number 0 merges nothing.
///
/// A *node* is a decision point together with the choices before it, numbered within its point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleTree {
    points: Vec<DecisionPoint>,
    patches: usize,
    /// The first block in which nothing merges any more.
    end: usize,
}

impl ScheduleTree {
    /// The tree of a model: decision points after about a twelfth, a third and seven twelfths of its depth. No patch merges
    /// in the last block, after which none is seen.
    pub fn new(model: &VitConfig) -> Self {
        let end = model.num_layers.saturating_sub(1);
        let patches = model.num_patches();
        let place = |share: f64| (model.num_layers as f64 * share).round() as usize;
        let mut blocks: Vec<usize> = PLACES.map(place).to_vec();
        blocks.retain(|&block| block < end);
        blocks.dedup();
        if blocks.is_empty() && end > 0 {
            blocks.push(0);
        }
        let ends = blocks.iter().skip(1).copied().chain([end]);
        let points = blocks.iter().zip(ends).zip(MERGED);
        let points = points.map(|((&block, end), shares)| {
            let each = |share: &f64| share * patches as f64 / (end - block) as f64;
            let mut merges: Vec<usize> = shares.iter().map(|s| each(s).round() as usize).collect();
            merges.dedup();
            DecisionPoint { block, merges }
        });
        Self {
            points: points.collect(),
            patches,
            end,
        }
    }

    /// The decision points, ascending.
    pub fn points(&self) -> &[DecisionPoint] {
        &self.points
    }

    /// How many schedules there are.
    pub fn schedules(&self) -> usize {
        self.below(0)
    }

    /// How many schedules begin with the choices of one node of this decision point; 1 beyond the last point.
    pub fn below(&self, point: usize) -> usize {
        let later = self.points.iter().skip(point);
        later.map(|point| point.merges.len()).product()
    }

    /// How many nodes this decision point has.
    pub fn nodes(&self, point: usize) -> usize {
        let earlier = self.points.iter().take(point);
        earlier.map(|point| point.merges.len()).product()
    }

    /// What a schedule chooses at a decision point.
    pub fn choice(&self, schedule: usize, point: usize) -> usize {
        schedule / self.below(point + 1) % self.points[point].merges.len()
    }

    /// The blocks in which patches can merge, ascending.
    pub fn blocks(&self) -> std::ops::Range<usize> {
        let first = self.points.first().map_or(self.end, |point| point.block);
        first..self.end
    }

    /// The decision point whose choice holds in a block.
    pub fn point_of(&self, block: usize) -> Option<usize> {
        let begun = self.points.iter().take_while(|point| point.block <= block);
        let count = if block < self.end { begun.count() } else { 0 };
        count.checked_sub(1)
    }

    /// How many patches a schedule leaves after each of [`blocks`](Self::blocks); no more than half merge in one block.
    pub fn kept(&self, schedule: usize) -> Vec<usize> {
        let mut left = self.patches;
        let kept = self.blocks().map(|block| {
            let merges = self.point_of(block).map_or(0, |point| {
                self.points[point].merges[self.choice(schedule, point)]
            });
            left -= merges.min(left / 2);
            left
        });
        kept.collect()
    }

    /// What a pass of one image with this schedule would leave behind.
    pub(crate) fn trace(&self, model: &VitConfig, schedule: usize) -> Vec<LayerTrace> {
        let mut seen = model.num_tokens();
        let entries = self.blocks().zip(self.kept(schedule)).map(|(layer, kept)| {
            let left = kept + model.num_prefix_tokens();
            let entry = LayerTrace {
                layer,
                placement: Placement::AfterAttention,
                seen: vec![seen],
                left: vec![left],
                kept: Kept::default(),
                logits: None,
                parked: Vec::new(),
                restarted: Vec::new(),
            };
            seen = left;
            entry
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::VitPreset;

    #[test]
    fn a_deep_model_has_three_decision_points_and_a_shallow_one_fewer() {
        let blocks = |num_layers: usize| {
            let model = VitConfig {
                num_layers,
                ..VitPreset::Tiny32.config()
            };
            let tree = ScheduleTree::new(&model);
            let blocks = tree.points().iter().map(|point| point.block);
            blocks.collect::<Vec<_>>()
        };
        assert_eq!(blocks(12), [1, 4, 7]);
        assert_eq!(blocks(24), [2, 8, 14]);
        assert_eq!(blocks(6), [1, 2, 4]);
        assert_eq!(blocks(3), [0, 1]);
        assert_eq!(blocks(2), [0]);
        assert!(blocks(1).is_empty());
    }

    #[test]
    fn schedules_begin_with_the_choices_of_their_nodes_and_the_first_merges_nothing() {
        let model = VitPreset::Tiny32.config();
        let tree = ScheduleTree::new(&model);
        assert_eq!(tree.schedules(), 5 * 4 * 2);
        assert_eq!(tree.nodes(1) * tree.below(1), tree.schedules());
        assert!(tree.kept(0).iter().all(|&kept| kept == model.num_patches()));
        let choices = |schedule| [0, 1, 2].map(|point| tree.choice(schedule, point));
        assert_eq!(choices(0), [0, 0, 0]);
        assert_eq!(choices(9), [1, 0, 1]);
        assert_eq!(choices(39), [4, 3, 1]);
        for schedule in 0..tree.schedules() {
            let kept = tree.kept(schedule);
            assert!(kept.is_sorted_by(|a, b| a >= b), "{kept:?}");
            assert!(kept.iter().all(|&kept| kept >= 1));
        }
    }
}
