//! Gates learn from explored images: what both ways to teach them share.

use apt_pruning_agent::Gates;
use apt_vit_model::host::upload;
use burn::module::{Module, Param, ParamId};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::exploration::Explored;

/// What is added to a divergence before its logarithm is taken, in nats: smaller ones matter to nobody.
pub(crate) const LEAST: f32 = 1e-3;
/// Features that vary by less than this are constants.
const CONSTANT: f32 = 1e-5;

/// How gates are taught.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TeachingSettings {
    /// Optimiser steps.
    pub steps: usize,
    /// Images a step.
    pub batch_size: usize,
    /// Its peak; it falls as a cosine.
    pub learning_rate: f64,
    /// Of AdamW, on matrices.
    pub weight_decay: f32,
    /// Of batches and prices.
    pub seed: u64,
    /// The logarithms of the lowest and the highest price that is practised.
    pub prices: [f64; 2],
}

/// Explored images on the device, as the gates take them.
pub struct Classroom {
    /// Per decision point, `[images, nodes * (features + nodes)]`.
    standard: Vec<Tensor<2>>,
    /// Per decision point.
    nodes: Vec<usize>,
    /// Per decision point, what the networks say, `[images, nodes * schedules below]`; empty while they learn.
    unusual: Vec<Tensor<2>>,
    /// `[images, schedules]`, divergences in nats.
    distances: Tensor<2>,
    images: usize,
}

/// Some of the images, each at a price.
pub(crate) struct Practice {
    /// Per decision point, `[images * nodes, features + nodes]`.
    pub standard: Vec<Tensor<2>>,
    /// Per decision point, what the networks say, `[images, nodes * schedules below]`; empty while they learn.
    pub unusual: Vec<Tensor<2>>,
    /// `[images, schedules]`
    pub distances: Tensor<2>,
    /// `[images, 1]`
    pub price: Tensor<2>,
    /// How much of the lesson is over, from 0 to 1.
    pub progress: f64,
}

/// A way to teach: what is to become small.
pub(crate) trait Teaching {
    /// What learns.
    fn learners(&self, gates: &Gates) -> Vec<ParamId>;

    /// The loss of a batch, a scalar.
    fn loss(&self, gates: &Gates, practice: &Practice) -> Tensor<1>;
}

/// Tells the gates what is usual: mean and spread of the features at each node, and the mean logarithm of the divergences.
pub fn accustom(mut gates: Gates, explored: &Explored) -> Gates {
    let schedules = gates.tree().schedules();
    let logarithms = explored.distances.iter().map(|d| (d + LEAST).ln());
    let logarithms: Vec<f32> = logarithms.collect();
    let (usual, _) = moments(&logarithms, explored.images, schedules);
    for (gate, features) in gates.gates.iter_mut().zip(&explored.features) {
        let [nodes, count] = gate.center.dims();
        let device = gate.center.val().device();
        let (mean, deviation) = moments(features, explored.images, nodes * count);
        let scale = deviation.iter();
        let scale = scale.map(|&d| if d > CONSTANT { 1.0 / d } else { 0.0 });
        let set = |param: &mut Param<Tensor<2>>, values: Vec<f32>, shape| {
            let values = upload(values, shape, &device);
            *param = param.clone().map(|_| values);
        };
        set(&mut gate.center, mean, [nodes, count]);
        set(&mut gate.scale, scale.collect(), [nodes, count]);
        // At any price.
        let mut table = usual.clone();
        let [rows, below] = gate.usual.dims();
        table.resize(rows * below, 0.0);
        set(&mut gate.usual, table, [rows, below]);
    }
    gates
}

/// Per column of `[rows, columns]`, mean and standard deviation.
fn moments(values: &[f32], rows: usize, columns: usize) -> (Vec<f32>, Vec<f32>) {
    let mut sums = vec![[0f64; 2]; columns];
    for row in values.chunks_exact(columns.max(1)) {
        for (sums, &value) in sums.iter_mut().zip(row) {
            sums[0] += f64::from(value);
            sums[1] += f64::from(value) * f64::from(value);
        }
    }
    let rows = rows.max(1) as f64;
    let of = |sums: &[f64; 2]| {
        let mean = sums[0] / rows;
        let variance = (sums[1] / rows - mean * mean).max(0.0);
        (mean as f32, variance.sqrt() as f32)
    };
    sums.iter().map(of).unzip()
}

impl Classroom {
    /// The images as gates that know what is usual in such images see them, on the gates' device.
    pub fn new(gates: &Gates, explored: &Explored) -> Self {
        let images = explored.images;
        let device = gates.gates[0].center.val().device();
        let points = gates.gates.iter().zip(&explored.features);
        let standard = points.map(|(gate, features)| {
            let [nodes, count] = gate.center.dims();
            let rows = images * nodes;
            let features = upload(features.clone(), [rows, count], &device);
            let at: Vec<usize> = (0..rows).map(|row| row % nodes).collect();
            let standard = gate.standard(features, &at);
            let [_, width] = standard.dims();
            standard.reshape([images, nodes * width])
        });
        let schedules = gates.tree().schedules();
        Self {
            standard: standard.collect(),
            nodes: gates.gates.iter().map(|gate| gate.sizes()[0]).collect(),
            unusual: Vec::new(),
            distances: upload(explored.distances.clone(), [images, schedules], &device),
            images,
        }
    }

    /// From now on the gates' networks say of these images what they say now.
    pub(crate) fn settle(&mut self, gates: &Gates) {
        let points = gates.gates.iter().zip(&self.standard);
        let unusual = points.map(|(gate, standard)| {
            let ([nodes, below], [_, count]) = (gate.sizes(), gate.center.dims());
            let standard = standard.clone();
            let standard = standard.reshape([self.images * nodes, count + nodes]);
            let unusual = gate.unusual(standard);
            unusual.reshape([self.images, nodes * below])
        });
        self.unusual = unusual.collect();
    }

    /// All logarithms of divergences that the gates foresee at a price: per decision point, `[images * nodes, schedules
    /// below]`.
    pub fn foreseen(&self, gates: &Gates, price: f64) -> Vec<Vec<f32>> {
        let points = gates.gates.iter().zip(&self.standard);
        let of = |(gate, standard): (&apt_pruning_agent::Gate, &Tensor<2>)| {
            let [nodes, count] = gate.center.dims();
            let rows = self.images * nodes;
            let standard = standard.clone().reshape([rows, count + nodes]);
            let foreseen = gate.foresee(standard, Gates::told_price(price)).into_data();
            foreseen.iter::<f32>().collect()
        };
        points.map(of).collect()
    }

    fn practice(
        &self,
        rng: &mut ChaCha8Rng,
        settings: &TeachingSettings,
        progress: f64,
    ) -> Practice {
        let count = settings.batch_size.min(self.images);
        let device = self.distances.device();
        let chosen: Vec<i32> = (0..count)
            .map(|_| rng.random_range(0..self.images) as i32)
            .collect();
        let chosen = Tensor::<1, Int>::from_data(chosen.as_slice(), &device);
        let [low, high] = settings.prices;
        let prices = (0..count).map(|_| (low + (high - low) * rng.random_range(0.0..1.0)).exp());
        let prices: Vec<f32> = prices.map(|price| price as f32).collect();
        let select = |all: &Tensor<2>| all.clone().select(0, chosen.clone()).autodiff();
        let standard = self.standard.iter().zip(&self.nodes);
        let standard = standard.map(|(all, &nodes)| {
            let [_, width] = all.dims();
            select(all).reshape([count * nodes, width / nodes])
        });
        Practice {
            standard: standard.collect(),
            unusual: self.unusual.iter().map(select).collect(),
            distances: select(&self.distances),
            price: upload(prices, [count, 1], &device).autodiff(),
            progress,
        }
    }
}

/// Teaches the gates with these images, and gives them back as they were when `judge` liked them best: the lower, the
/// better. `go_on` is told how much is done, and says whether to go on.
pub(crate) fn teach(
    gates: Gates,
    classroom: &Classroom,
    teaching: &dyn Teaching,
    settings: &TeachingSettings,
    mut judge: impl FnMut(&Gates) -> f64,
    mut go_on: impl FnMut(f64) -> bool,
) -> Gates {
    /// How often it is judged.
    const JUDGED: usize = 25;
    let mut best = (judge(&gates), gates.clone());
    let mut optimizer = AdamWConfig::new()
        .with_weight_decay(settings.weight_decay)
        .init();
    let mut learning = gates.train();
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let every = settings.steps.div_ceil(JUDGED).max(1);
    for step in 0..settings.steps {
        let progress = step as f64 / settings.steps as f64;
        let practice = classroom.practice(&mut rng, settings, progress);
        let loss = teaching.loss(&learning, &practice);
        let mut grads = loss.backward();
        let learners = teaching.learners(&learning);
        let grads = GradientsParams::from_params(&mut grads, &learning, &learners);
        let rate = settings.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        learning = optimizer.step(rate, learning, grads);
        if (step + 1) % every == 0 || step + 1 == settings.steps {
            let now = learning.valid();
            let cost = judge(&now);
            if cost < best.0 {
                best = (cost, now);
            }
            if !go_on((step + 1) as f64 / settings.steps as f64) {
                break;
            }
        }
    }
    best.1
}
