//! The numbers of patches that a policy can keep after each of its blocks to compute a share of the FLOPs.

use apt_pruning_agent::{AnyPolicy, counted_flops};
use apt_vit_model::{VitConfig, vit_flops};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// The schedules of a policy that compute a share.
pub(super) struct Schedules<'a> {
    pub policy: &'a AnyPolicy,
    pub config: &'a VitConfig,
    pub target: f64,
}

impl Schedules<'_> {
    /// What is counted, as a share of the dense FLOPs.
    pub fn share(&self, kept: &[usize]) -> f64 {
        let flops: u64 = counted_flops(&**self.policy, self.config, kept)
            .iter()
            .sum();
        flops as f64 / vit_flops(self.config, &[], 0) as f64
    }

    fn fits(&self, kept: &[usize]) -> bool {
        self.share(kept) <= self.target + 1e-9
    }

    fn blocks(&self) -> usize {
        self.policy.blocks().len()
    }

    /// The patches that remain after each block, where so many merge in each; at most half of the patches merge in one block.
    fn kept(&self, merges: &[f64]) -> Vec<usize> {
        let mut left = self.config.num_patches();
        let (mut planned, mut gone) = (0.0, 0);
        let kept = merges.iter().map(|merges| {
            planned += merges.max(0.0);
            let fewer = (planned.round() as usize).saturating_sub(gone);
            gone += fewer;
            left -= fewer.min(left / 2);
            left
        });
        kept.collect()
    }

    /// Some to begin with: `None` where one cannot compute so little.
    pub fn shapes(&self) -> Vec<Option<Vec<usize>>> {
        let blocks = self.blocks();
        let depth = |block: usize| block as f64 / (blocks.max(2) - 1) as f64;
        let weigh = |weight: &dyn Fn(f64) -> f64| {
            let weights: Vec<f64> = (0..blocks).map(|block| weight(depth(block))).collect();
            self.scaled(&weights)
        };
        vec![
            weigh(&|depth| 1.5 - depth),
            weigh(&|depth| 0.5 + depth),
            weigh(&|depth| f64::from(depth < 0.7)),
            weigh(&|depth| f64::from(depth > 0.2)),
            weigh(&|depth| 1.0 - (2.0 * depth - 1.0).abs() * 0.8),
            weigh(&|depth| 0.2 + (2.0 * depth - 1.0).abs()),
        ]
    }

    /// Merges in these proportions that meet the share.
    fn scaled(&self, weights: &[f64]) -> Option<Vec<usize>> {
        let of = |scale: f64| {
            let merges: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
            self.kept(&merges)
        };
        let (mut low, mut high) = (0.0, self.config.num_patches() as f64);
        if !self.fits(&of(high)) {
            return None;
        }
        for _ in 0..30 {
            let middle = (low + high) / 2.0;
            if self.fits(&of(middle)) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Some(of(high))
    }

    /// Some merges of one block go to another, whatever meets the share there.
    pub fn moved(&self, kept: &[usize], step: f64, rng: &mut ChaCha8Rng) -> Option<Vec<usize>> {
        let blocks = self.blocks();
        if blocks < 2 {
            return None;
        }
        let patches = self.config.num_patches();
        let before = std::iter::once(&patches).chain(kept);
        let mut merges: Vec<usize> = before
            .zip(kept)
            .map(|(before, kept)| before - kept)
            .collect();
        let mean = merges.iter().sum::<usize>() as f64 / blocks as f64;
        let step = ((mean * step).round() as usize).max(1);
        let from = rng.random_range(0..blocks);
        let into = (from + rng.random_range(1..blocks)) % blocks;
        let moved = step.min(merges[from]);
        if moved == 0 {
            return None;
        }
        merges[from] -= moved;
        let of = |merges: &[usize]| {
            let mut left = patches;
            let kept = merges.iter().map(|&merges| {
                // More than half cannot go.
                (merges <= left / 2).then(|| {
                    left -= merges;
                    left
                })
            });
            kept.collect::<Option<Vec<usize>>>()
        };
        // One at a time: what a merge saves depends on the block.
        while !self.fits(&of(&merges)?) {
            merges[into] += 1;
        }
        // Is there room for less of it?
        while merges[into] > 0 {
            merges[into] -= 1;
            if !of(&merges).is_some_and(|kept| self.fits(&kept)) {
                merges[into] += 1;
                break;
            }
        }
        of(&merges)
    }
}
