//! Cells that look like a sweep's, for tests.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::cell::{Cell, DENSE};

/// A cell of so many images; the same arguments give the same cell.
pub fn cell(policy: &str, target: f64, seed: u64, images: usize) -> Cell {
    let hash = policy
        .bytes()
        .fold(7u64, |h, b| h * 31 % 1009 + u64::from(b));
    let key = hash * 1_000_003 + (target * 1000.0) as u64 * 101 + seed;
    let mut rng = ChaCha8Rng::seed_from_u64(key);
    let dense = policy == DENSE;
    let loss = if dense {
        0.0
    } else {
        (1.0 - target).powi(2) * (0.1 + 0.02 * (hash % 11) as f64)
    };
    let chance = 0.93 - loss + 0.004 * (rng.random::<f64>() - 0.5);
    let correct: Vec<bool> = (0..images).map(|_| rng.random::<f64>() < chance).collect();
    let dense_correct: Vec<bool> = if dense {
        correct.clone()
    } else {
        (0..images)
            .map(|_| rng.random::<f64>() < chance + 0.01)
            .collect()
    };
    let share =
        |correct: &[bool]| correct.iter().filter(|&&right| right).count() as f64 / images as f64;
    let flops_share = if dense {
        1.0
    } else {
        target + 0.02 * (rng.random::<f64>() - 0.5)
    };
    let time = if dense {
        1.0
    } else {
        flops_share + 0.06 + 0.02 * (hash % 5) as f64 + 0.01 * rng.random::<f64>()
    };
    Cell {
        policy: policy.to_string(),
        target_flops: target,
        seed,
        accuracy: share(&correct),
        flops_share,
        images_per_s: 100.0 / time,
        dense_images_per_s: 100.0,
        dense_accuracy: share(&dense_correct),
        image_passes: 150_000,
        train_seconds: 1234.5,
        test_images: images,
        tokens_per_layer: vec![140.5, 100.25, 64.0],
        foreground_precision: None,
        foreground_recall: (!dense).then_some(0.9),
        correct,
        dense_correct,
    }
}

/// Seven policies at three budgets and the baseline, three seeds each.
pub fn sweep(images: usize) -> Vec<Cell> {
    let policies = [
        "counterfactual",
        "cls-attention",
        "random",
        "evit",
        "tome",
        "apt-reinforce",
        "norm",
    ];
    let mut cells: Vec<Cell> = (0..3).map(|seed| cell(DENSE, 1.0, seed, images)).collect();
    for policy in policies {
        for target in [0.8, 0.65, 0.5] {
            cells.extend((0..3).map(|seed| cell(policy, target, seed, images)));
        }
    }
    cells
}
