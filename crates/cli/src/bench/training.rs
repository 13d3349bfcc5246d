//! `aptvit bench train`: the parts of the published training step.

use std::cell::RefCell;

use apt_pruning_agent::PruningAgents;
use apt_rl_trainer::counterfactual::{
    DensePass, choose_cuts, cross_entropy, stream_0, stream_1, stream_2,
};
use apt_rl_trainer::{OptimizerConfig, build_optimizer, clip_global_norm};
use apt_vit_model::{ExecutionMode, RunSettings, Vit};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::clock::{self, Case, PerImage};
use super::{Subject, backend, bench_bar, print_lines};
use crate::args::{Bench, Global};
use crate::table::{percent, table};

/// What an optimiser steps.
#[derive(Module, Debug)]
struct Pair {
    vit: Vit,
    agents: PruningAgents,
}

/// A line of the result.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    backend: &'static str,
    batch: usize,
    threads: usize,
    part: &'static str,
    images_per_s: f64,
    ms_per_image: PerImage,
    /// Of the time that a dense forward pass takes, the median of the ratios of each round.
    dense_passes: f64,
    peak_rss_mb: Option<f64>,
}

pub fn run(subject: &Subject, args: &Bench, global: &Global, device: &Device) {
    let bar = bench_bar(((args.warmup + args.repeats) * 8 * args.batch.len()) as u64);
    let mut rows = Vec::new();
    for &batch in &args.batch {
        let step = Step::new(subject, batch, args.ragged, device);
        let mut cases = step.cases();
        let times = clock::time(&mut cases, args.warmup, args.repeats, &bar);
        rows.extend(cases.iter().zip(&times).map(|(case, own)| Row {
            model: subject.name.clone(),
            backend: backend(),
            batch,
            threads: rayon::current_num_threads(),
            part: case.name,
            images_per_s: batch as f64 / own.median(),
            ms_per_image: own.per_image(batch),
            dense_passes: 1.0 / own.speedup_over(&times[0]),
            peak_rss_mb: own.peak_rss_mb,
        }));
    }
    bar.finish_and_clear();
    if global.json {
        return print_lines(&rows);
    }
    println!(
        "{}, {}, {} threads, {} of the patches left in stream 1",
        subject.name,
        backend(),
        rayon::current_num_threads(),
        percent(subject.rates.iter().map(|&rate| f64::from(rate)).product()),
    );
    let mut lines = table(&[
        "part",
        "batch",
        "images/s",
        "ms/image",
        "dense passes",
        "peak MiB",
    ]);
    for row in rows {
        lines.add_row([
            row.part.to_string(),
            row.batch.to_string(),
            format!("{:.2}", row.images_per_s),
            format!("{:.2}", row.ms_per_image.median),
            format!("{:.2}", row.dense_passes),
            row.peak_rss_mb
                .map_or("-".into(), |peak| format!("{peak:.0}")),
        ]);
    }
    println!("{lines}");
}

/// A training step's parts and what they work on.
struct Step<'a> {
    subject: &'a Subject,
    ragged: bool,
    images: Tensor<4>,
    targets: Vec<usize>,
    seeds: Vec<u64>,
    /// Without autodiff.
    frozen: Pair,
    /// What stream 0 found, for those that time stream 2 alone.
    dense: DensePass,
    optimizer: RefCell<burn::optim::ModuleOptimizer>,
    model: RefCell<Pair>,
}

impl<'a> Step<'a> {
    fn new(subject: &'a Subject, batch: usize, ragged: bool, device: &Device) -> Self {
        let images = subject.images(batch, device);
        let classes = subject.config.num_classes;
        let targets: Vec<usize> = (0..batch).map(|image| image % classes).collect();
        let model = Pair {
            vit: subject.vit.clone(),
            agents: subject.agents.clone(),
        };
        let frozen = model.valid();
        let plain = images.clone().inner();
        Self {
            subject,
            ragged,
            seeds: (0..batch as u64).collect(),
            dense: stream_0(&frozen.vit, &frozen.agents, plain, &targets),
            images,
            targets,
            optimizer: RefCell::new(build_optimizer(&OptimizerConfig::default(), &model)),
            model: RefCell::new(model),
            frozen,
        }
    }

    fn cases(&self) -> Vec<Case<'_>> {
        vec![
            Case::new("dense inference", || self.infer()),
            Case::new("stream 0", || drop(self.observe(false))),
            Case::new("stream 0 with a graph", || drop(self.observe(true))),
            Case::new("stream 1", || {
                drop(self.learn(ExecutionMode::Drop).backward())
            }),
            Case::new("stream 1 masked", || {
                drop(self.learn(ExecutionMode::Mask).backward())
            }),
            Case::new("stream 2, all agents", || {
                drop(self.cut(&self.dense).backward())
            }),
            Case::new("stream 2 without shared blocks", || {
                self.embed_for_each_agent();
                drop(self.cut(&self.dense).backward());
            }),
            Case::new("the whole step", || self.whole()),
        ]
    }

    fn infer(&self) {
        let images = self.images.clone().inner();
        let output = self.frozen.vit.forward(images, RunSettings::DENSE);
        output.logits.into_data();
    }

    /// Stream 0, or what it would be as part of a graph.
    fn observe(&self, graph: bool) -> DensePass {
        let (images, targets) = (self.images.clone(), &self.targets);
        match graph {
            true => stream_0(&self.subject.vit, &self.subject.agents, images, targets),
            false => stream_0(
                &self.frozen.vit,
                &self.frozen.agents,
                images.inner(),
                targets,
            ),
        }
    }

    /// Stream 1 as far as its loss.
    fn learn(&self, mode: ExecutionMode) -> Tensor<1> {
        let mut reducer = self.subject.reducer(self.targets.len(), self.ragged);
        reducer.agents = &self.frozen.agents;
        let vit = &self.subject.vit;
        stream_1(vit, &reducer, mode, self.images.clone(), &self.targets).loss
    }

    /// Stream 2 as far as the sum of its losses.
    fn cut(&self, dense: &DensePass) -> Tensor<1> {
        let agents = dense.observed.iter().zip(&self.subject.agents.agents);
        let losses = agents.map(|(observed, agent)| {
            let cuts = choose_cuts(observed, &self.seeds);
            stream_2(
                &self.frozen.vit,
                agent,
                dense,
                observed,
                &cuts,
                &self.targets,
            )
            .loss
        });
        losses
            .reduce(|all, loss| all + loss)
            .unwrap_or_else(|| cross_entropy(dense.logits.clone(), &self.targets))
    }

    /// What stream 2 would compute anew for each agent if it shared nothing with stream 0.
    fn embed_for_each_agent(&self) {
        for &layer in &self.subject.agents.layers {
            let vit = &self.frozen.vit;
            let batch = vit.embed(self.images.clone().inner());
            let prefix = vit.run_blocks(batch, 0..layer + 1, RunSettings::DENSE);
            prefix.batch.cls().into_data();
        }
    }

    /// All streams, one backward pass, the clip and the optimiser.
    fn whole(&self) {
        let dense = self.observe(false);
        let loss = self.learn(ExecutionMode::Drop) + self.cut(&dense);
        let mut model = self.model.borrow().clone();
        let mut grads = GradientsParams::from_grads(loss.backward(), &model);
        (model, _) = clip_global_norm(model, &mut grads, 1.0);
        *self.model.borrow_mut() = self.optimizer.borrow_mut().step(1e-3, model, grads);
    }
}
