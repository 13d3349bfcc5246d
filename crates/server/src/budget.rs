//! How much of the dense model's FLOPs an image gets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use apt_inference::{InferenceError, Model};
use apt_pruning_agent::{PolicyConfig, Selection};
use apt_vit_model::vit_flops;

/// The policy of a model without one. It needs no training.
const WITHOUT_TRAINING: &str = "tome";
/// The difference of two neighbouring shares of a range.
const STEP: f64 = 0.05;
/// Shares in requests are rounded to thousandths, so that no more than a thousand budgets are kept.
const PARTS: f64 = 1000.0;

/// A budget: the share that was asked for, and what the policy removes for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// The share of the dense model's FLOPs; none where the policy removes what it wants.
    pub share: Option<f64>,
    /// What the policy removes.
    pub selection: Selection,
}

impl Budget {
    /// Nothing is removed.
    pub fn dense() -> Self {
        Self {
            share: Some(1.0),
            selection: Selection::All,
        }
    }

    /// The share by which its cost is forecast. A policy without a budget counts as dense.
    pub fn cost(&self) -> f64 {
        self.share.unwrap_or(1.0)
    }

    /// Is nothing removed?
    pub fn is_dense(&self) -> bool {
        self.selection == Selection::All
    }
}

/// What requests get that name no share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Usual {
    /// What the model was trained for.
    #[default]
    AsTrained,
    /// One share.
    Share(f64),
    /// The load decides, between two shares.
    Elastic {
        /// Without load.
        most: f64,
        /// Under the highest load.
        least: f64,
    },
}

/// A model's budgets: those that the load chooses from, and those that requests named.
#[derive(Debug)]
pub struct Budgets {
    /// From the most to the least compute; one where the load chooses nothing.
    levels: Vec<Arc<Budget>>,
    /// By thousandths of a share.
    named: Mutex<HashMap<u32, Arc<Budget>>>,
}

impl Budgets {
    /// The budgets of `model` where requests usually get `usual`. A dense model gets ToMe, with which it meets budgets
    /// without training.
    ///
    /// # Errors
    ///
    /// Where the policy meets no such share, or has to be calibrated first.
    pub fn new(model: Model, usual: Usual) -> Result<(Model, Self), InferenceError> {
        let model = if model.description().policy.name() == "dense" {
            model.with_policy(PolicyConfig::named(WITHOUT_TRAINING)?)?
        } else {
            model
        };
        let one = |share| Ok::<_, InferenceError>(vec![Arc::new(at(&model, share)?)]);
        let levels = match usual {
            Usual::AsTrained => match model.description().flops.first() {
                Some(&share) => one(share)?,
                None => vec![Arc::new(Budget {
                    share: (*model.selection() == Selection::All).then_some(1.0),
                    selection: model.selection().clone(),
                })],
            },
            Usual::Share(share) => one(share)?,
            Usual::Elastic { most, least } => range(&model, most, least)?,
        };
        let named = Mutex::default();
        Ok((model, Self { levels, named }))
    }

    /// What the load chooses from, the most compute first.
    pub fn levels(&self) -> &[Arc<Budget>] {
        &self.levels
    }

    /// The budget for the share that a request names.
    ///
    /// # Errors
    ///
    /// Where the policy meets no such share.
    pub fn named(&self, model: &Model, share: f64) -> Result<Arc<Budget>, InferenceError> {
        let parts = (share * PARTS).round();
        let key = parts as u32;
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = named.get(&key) {
            return Ok(Arc::clone(budget));
        }
        let budget = Arc::new(at(model, parts / PARTS)?);
        named.insert(key, Arc::clone(&budget));
        Ok(budget)
    }
}

/// FLOPs of one image of which nothing is removed.
pub fn dense_flops(model: &Model) -> f64 {
    vit_flops(model.pruning().config(), &[], 0) as f64
}

fn at(model: &Model, share: f64) -> Result<Budget, InferenceError> {
    if share == 1.0 {
        return Ok(Budget::dense());
    }
    Ok(Budget {
        share: Some(share),
        selection: model.selection_for(Some(share))?,
    })
}

/// Shares from `most` to `least`. Of a policy that was calibrated for some shares, those between, and both ends.
fn range(model: &Model, most: f64, least: f64) -> Result<Vec<Arc<Budget>>, InferenceError> {
    let steps = ((most - least) / STEP).round().max(1.0) as usize;
    let even = (1..steps).map(|step| {
        let share = most - (most - least) * step as f64 / steps as f64;
        (share * PARTS).round() / PARTS
    });
    let known = model.budgets().0.iter().map(|budget| budget.target_flops);
    let mut between: Vec<f64> = even.chain(known).collect();
    between.retain(|&share| share < most && share > least);
    between.sort_by(|a, b| b.total_cmp(a));
    between.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
    let mut levels = vec![Arc::new(at(model, most)?)];
    // A policy that was not calibrated for a share leaves it out.
    let between = between
        .into_iter()
        .filter_map(|share| at(model, share).ok());
    levels.extend(between.map(Arc::new));
    if least < most {
        levels.push(Arc::new(at(model, least)?));
    }
    Ok(levels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny_model;

    #[test]
    fn a_range_of_shares_falls_from_one_end_to_the_other() {
        let usual = Usual::Elastic {
            most: 1.0,
            least: 0.6,
        };
        let (_, budgets) = Budgets::new(tiny_model(), usual).unwrap();
        let levels = budgets.levels();
        let shares: Vec<f64> = levels.iter().filter_map(|level| level.share).collect();
        assert_eq!(shares, [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6]);
        assert!(levels[0].is_dense() && !levels[1].is_dense());
    }

    #[test]
    fn a_share_that_no_count_meets_is_refused() {
        let usual = Usual::Share(0.01);
        let error = Budgets::new(tiny_model(), usual).unwrap_err();
        assert!(error.to_string().contains("0.01"), "{error}");
        let (model, budgets) = Budgets::new(tiny_model(), Usual::AsTrained).unwrap();
        assert!(budgets.named(&model, 0.01).is_err());
        let first = budgets.named(&model, 0.7).unwrap();
        let again = budgets.named(&model, 0.70001).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
    }
}
