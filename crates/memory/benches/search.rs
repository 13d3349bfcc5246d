//! What a search for the most similar entries takes, by entries and images at a time.
//!
//! `cargo bench --workspace --bench search`
#![allow(missing_docs)]

use std::sync::{LazyLock, Mutex};

use apt_memory::Index;
use burn::tensor::Device;
use divan::Bencher;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// ViT-S's width.
const WIDTH: usize = 384;
const NEIGHBORS: usize = 20;

fn main() {
    divan::main();
}

fn features(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut features = || (0..WIDTH).map(|_| rng.random_range(-1.0..1.0)).collect();
    (0..count).map(|_| features()).collect()
}

/// An index of so many entries: the last one that was asked for is kept.
fn with_index(entries: usize, bench: impl FnOnce(&Index)) {
    static LAST: LazyLock<Mutex<Option<Index>>> = LazyLock::new(Mutex::default);
    let Ok(mut last) = LAST.lock() else { return };
    let is_there = last.as_ref().is_some_and(|index| index.len() == entries);
    if !is_there {
        *last = None;
        let rows = features(entries, 1);
        let index = Index::new(WIDTH, rows.iter().map(Vec::as_slice), &Device::default());
        *last = Some(index);
    }
    if let Some(index) = &*last {
        bench(index);
    }
}

#[divan::bench(args = [10_000, 100_000, 1_000_000], consts = [1, 8, 32], sample_count = 20)]
fn nearest<const IMAGES: usize>(bencher: Bencher, entries: usize) {
    let queries = features(IMAGES, 2);
    with_index(entries, |index| {
        bencher.bench_local(|| index.nearest(&queries, NEIGHBORS));
    });
}
