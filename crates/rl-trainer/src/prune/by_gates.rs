//! Policies whose gates learn from explored images.

use apt_data::ImageDataset;
use apt_inference::Budget;
use apt_pruning_agent::{
    AnyPolicy, Gates, Policy, PolicyConfig, PolicySettings, RandomAllocationSettings,
    RegressionSettings, Selection,
};

use super::candidate::Candidate;
use super::classroom::Classroom;
use super::exploration::{Explored, explore};
use super::fitting::{Allocated, fit_price, frequencies};
use super::job::{CHECKPOINT, Job, is_held_out};
use super::learning::{LearningSettings, Taught, learn};
use super::request::{FEWEST, PruneProgress};
use crate::TrainerError;

/// The share of a time limit in which images are explored.
const FOR_EXPLORATION: f64 = 0.7;

impl Job<'_> {
    /// Images to learn from, and held-out ones.
    pub fn explore(
        &self,
        images: &ImageDataset,
    ) -> Result<Option<(Explored, Explored)>, TrainerError> {
        let gates = Gates::init(self.packed.config(), self.device)?;
        for &target in &self.options.targets {
            gates.kept_for(self.packed.config(), target)?;
        }
        let all = images.len();
        let go_on = |done| {
            (self.progress)(PruneProgress::Exploring(done, all));
            self.goes_on(FOR_EXPLORATION)
        };
        let settings = self.settings(0);
        let found = explore(
            &self.packed,
            gates.tree(),
            images,
            &settings,
            self.device,
            &go_on,
        )?;
        if self.options.stop.is_requested() {
            return Ok(None);
        }
        if found.images < FEWEST {
            let reason = format!(
                "in its time limit it saw {} images, too few to learn from: expected {FEWEST} or more; give it more time",
                found.images
            );
            return Err(TrainerError::Pruning(reason));
        }
        let (held_out, rest): (Vec<usize>, Vec<usize>) =
            (0..found.images).partition(|image| is_held_out(*image));
        Ok(Some((found.subset(&rest), found.subset(&held_out))))
    }

    /// Gates that learned from them.
    pub fn learn(
        &self,
        explored: &Explored,
        held_out: &Explored,
    ) -> Result<Option<Taught>, TrainerError> {
        let settings = LearningSettings {
            seed: self.options.seed,
            ..LearningSettings::default()
        };
        let go_on = |share| {
            (self.progress)(PruneProgress::Learning(share));
            self.goes_on(1.0)
        };
        let (config, targets) = (self.packed.config(), &self.options.targets);
        let taught = learn(
            config,
            explored,
            held_out,
            targets,
            &settings,
            self.device,
            go_on,
        )?;
        Ok((!self.options.stop.is_requested()).then_some(taught))
    }

    /// A policy of taught gates, with the prices that meet the budgets on the held-out images.
    pub fn taught(
        &self,
        name: &str,
        taught: &Taught,
        held_out: &Explored,
    ) -> Result<Candidate, TrainerError> {
        let gates = if name == RegressionSettings::NAME {
            &taught.regression
        } else {
            &taught.reward
        };
        let classroom = Classroom::new(gates, held_out);
        let targets = self.options.targets.iter();
        let fitted = targets.map(|&target| fit_price(gates, &classroom, held_out, target));
        let fitted: Vec<Allocated> = fitted.collect();
        let config = PolicyConfig::named(name)?;
        let (policy, selections): (AnyPolicy, Vec<Selection>) =
            if name == RandomAllocationSettings::NAME {
                let count = gates.tree().schedules();
                let dealt = fitted.iter().map(|fitted| Selection::Schedules {
                    shares: frequencies(&fitted.schedules, count),
                });
                (
                    config.init(self.packed.config(), self.device)?,
                    dealt.collect(),
                )
            } else {
                let prices = fitted.iter().map(|fitted| Selection::Price {
                    price: fitted.price,
                });
                (AnyPolicy::new(gates.clone()), prices.collect())
            };
        let budgets = fitted.iter().zip(selections).zip(&self.options.targets);
        let budgets = budgets.map(|((fitted, selection), &target)| Budget {
            target_flops: target,
            selection,
            flops_share: fitted.flops_share,
            accuracy: None,
            images: held_out.images,
            checkpoint: CHECKPOINT.into(),
        });
        Ok(Candidate {
            config,
            policy,
            budgets: budgets.collect(),
            divergence: fitted.iter().map(|fitted| fitted.kl).collect(),
        })
    }
}
