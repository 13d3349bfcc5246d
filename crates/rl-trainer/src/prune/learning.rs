//! From explored images to taught gates.

use apt_inference::initialize;
use apt_pruning_agent::Gates;
use apt_vit_model::VitConfig;
use burn::prelude::*;

use super::classroom::{Classroom, TeachingSettings, accustom, teach};
use super::expected_reward::ExpectedReward;
use super::exploration::Explored;
use super::fitting::{allocate_at, oracle};
use super::regression::Foresight;
use crate::TrainerError;

/// How far above the highest and below the lowest budget prices are practised, as shares of the FLOPs.
const BEYOND: [f64; 2] = [0.1, 0.05];
/// Prices at which gates are judged.
const JUDGED_AT: usize = 6;

/// How long gates learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningSettings {
    /// Optimiser steps of the regression.
    pub regression_steps: usize,
    /// Optimiser steps of the reinforcement.
    pub reward_steps: usize,
    /// Of initial weights, batches and prices.
    pub seed: u64,
}

impl Default for LearningSettings {
    fn default() -> Self {
        Self {
            regression_steps: 400,
            reward_steps: 600,
            seed: 0,
        }
    }
}

/// Gates that were taught by regression alone, and those that reinforcement taught after that.
pub struct Taught {
    /// By regression.
    pub regression: Gates,
    /// By the exact expected reward.
    pub reward: Gates,
}

/// Teaches gates on `explored` images for budgets `targets`; those steps count that are best on the `held_out` ones.
/// `go_on` is told the share of the lessons that is over, and says whether to go on.
///
/// # Errors
///
/// Where the model has no block in which patches can merge.
pub fn learn(
    model: &VitConfig,
    explored: &Explored,
    held_out: &Explored,
    targets: &[f64],
    settings: &LearningSettings,
    device: &Device,
    mut go_on: impl FnMut(f64) -> bool,
) -> Result<Taught, TrainerError> {
    device.seed(settings.seed);
    let gates = Gates::init(model, device)?;
    initialize(&gates);
    let prices = prices(explored, gates.shares(), targets);
    let gates = accustom(gates, explored);
    let mut classroom = Classroom::new(&gates, explored);
    let examination = Classroom::new(&gates, held_out);
    let judge = |gates: &Gates| cost(gates, &examination, held_out, prices);
    let lesson = |steps, learning_rate, weight_decay| TeachingSettings {
        steps,
        batch_size: 128,
        learning_rate,
        weight_decay,
        seed: settings.seed,
        prices,
    };
    let first = lesson(settings.regression_steps, 1e-3, 0.05);
    let told = |share: f64| go_on(0.8 * share);
    let regression = teach(gates, &classroom, &Foresight, &first, judge, told);
    classroom.settle(&regression);
    let second = lesson(settings.reward_steps, 2e-2, 0.0);
    let told = |share: f64| go_on(0.8 + 0.2 * share);
    let reward = teach(
        regression.clone(),
        &classroom,
        &ExpectedReward,
        &second,
        judge,
        told,
    );
    Ok(Taught { regression, reward })
}

/// The logarithms of the lowest and the highest price that is of interest for these budgets.
fn prices(explored: &Explored, shares: &[f64], targets: &[f64]) -> [f64; 2] {
    let least = shares.iter().copied().fold(1.0, f64::min);
    let highest = targets.iter().copied().fold(0.0, f64::max) + BEYOND[0];
    let lowest = targets.iter().copied().fold(1.0, f64::min) - BEYOND[1];
    let price = |share: f64| oracle(shares, explored, share).price.ln();
    // A policy knows less than the oracle, and has to be careful at a higher price for the same share.
    let low = price(highest.min(0.95)) - 0.5;
    let high = price(lowest.max(least + 0.02)) + 1.5;
    [
        low.clamp(-9.0, 6.0),
        high.clamp(low.clamp(-9.0, 6.0) + 0.5, 8.0),
    ]
}

/// Mean over some prices of what images cost, as the reward has it.
fn cost(gates: &Gates, classroom: &Classroom, explored: &Explored, [low, high]: [f64; 2]) -> f64 {
    let prices = (0..JUDGED_AT).map(|step| {
        let place = step as f64 / (JUDGED_AT - 1) as f64;
        (low + (high - low) * place).exp()
    });
    let costs = prices.map(|price| {
        let found = allocate_at(gates, classroom, explored, price);
        found.kl / price + found.flops_share
    });
    costs.sum::<f64>() / JUDGED_AT as f64
}
