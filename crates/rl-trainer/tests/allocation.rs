//! Gates learn to compute more where it is needed, in a made-up world of easy and hard images.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::{Mutex, MutexGuard};

use apt_pruning_agent::{Gates, feature_count};
use apt_rl_trainer::prune::{
    Classroom, Explored, LearningSettings, Taught, allocate_at, fit_price, learn, oracle,
};
use apt_vit_model::{VitConfig, VitPreset};
use burn::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

const IMAGES: usize = 400;

fn model() -> VitConfig {
    VitConfig {
        hidden_size: 8,
        num_heads: 2,
        mlp_dim: 16,
        ..VitPreset::Tiny32.config()
    }
}

/// How hard an image looks, from -1 to 1; neighbours look different.
fn looks(image: usize) -> f32 {
    let place = 2.0 * (image / 2) as f32 / IMAGES as f32;
    if image.is_multiple_of(2) {
        place
    } else {
        -place
    }
}

/// One feature says how hard an image is, among many that say nothing. Merging moves the answers of hard images, and the
/// more the more it merges; those of the easiest move a hundredth of it. Where `flipped`, the images that look easy are hard.
fn world(seed: u64, flipped: bool) -> Explored {
    let gates = Gates::init(&model(), &Device::default()).unwrap();
    let tree = gates.tree();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let width = feature_count(model().hidden_size);
    let mut features = vec![Vec::new(); tree.points().len()];
    let (mut distances, mut equal) = (Vec::new(), Vec::new());
    for image in 0..IMAGES {
        let looks = looks(image);
        for (point, features) in features.iter_mut().enumerate() {
            for _ in 0..tree.nodes(point) {
                let mut own: Vec<f32> = (0..width).map(|_| rng.random_range(-1.0..1.0)).collect();
                own[3] += 2.0 * looks;
                features.extend(own);
            }
        }
        let hard = if flipped { -looks } else { looks };
        let factor = 0.1 * (2.3 * hard).exp();
        for share in gates.shares() {
            let lost = (1.0 - share).max(0.0) as f32;
            distances.push(factor * 4.0 * lost * lost * rng.random_range(0.7..1.3));
            equal.push(hard < 0.0 || lost < 0.3);
        }
    }
    Explored {
        images: IMAGES,
        features,
        distances,
        equal,
    }
}

/// Tests that run at the same time draw from the same device: they take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn taught(flipped: bool, seed: u64) -> Taught {
    let settings = LearningSettings {
        regression_steps: 400,
        reward_steps: 100,
        seed,
    };
    let (explored, held_out) = (world(1, flipped), world(2, flipped));
    let device = Device::default();
    let go_on = |_| true;
    let targets = [0.75, 0.65];
    learn(
        &model(),
        &explored,
        &held_out,
        &targets,
        &settings,
        &device,
        go_on,
    )
    .unwrap()
}

/// How much more is computed of images that look hard than of the others where the mean is 0.65: by the gates, and by one who
/// knows all answers.
fn more_for_hard(gates: &Gates, world: &Explored) -> [f64; 2] {
    let classroom = Classroom::new(gates, world);
    let found = fit_price(gates, &classroom, world, 0.65);
    let best = oracle(gates.shares(), world, 0.65);
    [found, best].map(|found| {
        let mean = |odd: usize| {
            let of = found.schedules.iter().skip(odd).step_by(2);
            let shares: Vec<f64> = of.map(|&schedule| gates.shares()[schedule]).collect();
            shares.iter().sum::<f64>() / shares.len() as f64
        };
        mean(0) - mean(1)
    })
}

#[test]
fn images_that_are_hard_get_more_and_with_the_reward_flipped_they_get_less() {
    let _alone = alone();
    let gates = taught(false, 0);
    for gates in [&gates.reward, &gates.regression] {
        let [more, best] = more_for_hard(gates, &world(2, false));
        assert!(best > 0.1 && more > 0.5 * best, "{more} of {best}");
    }
    let gates = taught(true, 0);
    let [more, best] = more_for_hard(&gates.reward, &world(2, true));
    assert!(best < -0.1 && more < 0.5 * best, "{more} of {best}");
}

#[test]
fn a_price_fitted_on_some_images_meets_the_budget_on_others() {
    let _alone = alone();
    let gates = taught(false, 0).reward;
    let (fitted_on, others) = (world(2, false), world(3, false));
    for target in [0.75, 0.65] {
        let classroom = Classroom::new(&gates, &fitted_on);
        let fitted = fit_price(&gates, &classroom, &fitted_on, target);
        assert!(
            (fitted.flops_share - target).abs() < 0.01,
            "{}",
            fitted.flops_share
        );
        let classroom = Classroom::new(&gates, &others);
        let met = allocate_at(&gates, &classroom, &others, fitted.price);
        assert!(
            (met.flops_share - target).abs() < 0.02,
            "{}",
            met.flops_share
        );
    }
}

#[test]
fn the_same_seed_teaches_the_same() {
    let _alone = alone();
    let told = |seed| {
        let gates = taught(false, seed).reward;
        let gate = &gates.gates[0];
        (
            gate.usual.val().into_data(),
            gate.input.weight.val().into_data(),
        )
    };
    assert_eq!(told(3), told(3));
    assert_ne!(told(3), told(4));
}
