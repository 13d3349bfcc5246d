//! `aptvit bench train`: the parts of the published training step.

use std::cell::RefCell;

use apt_pruning_agent::RankedReducer;
use apt_rl_trainer::counterfactual::{DensePass, choose_cuts, stream_0, stream_1, stream_2};
use apt_rl_trainer::{OptimizerConfig, PruningVit, build_optimizer, clip_global_norm};
use apt_vit_model::{ExecutionMode, RunSettings};
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::clock::{self, Case};
use super::{Subject, Timed, bench_bar, print_lines};
use crate::args::{Bench, Global};
use crate::table::{percent, table};

/// How many parts are timed.
const PARTS: usize = 8;

/// A line of the result.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    timed: Timed,
    part: &'static str,
    /// Of the time that a dense forward pass takes, the median of the ratios of each round.
    dense_passes: f64,
}

pub fn run(subject: &Subject, args: &Bench, global: &Global, device: &Device) {
    let bar = bench_bar(args, PARTS);
    let mut rows = Vec::new();
    for &batch in &args.batch {
        let step = Step::new(subject, batch, args.ragged, device);
        let mut cases = step.cases();
        let times = clock::time(&mut cases, args.warmup, args.repeats, &bar);
        rows.extend(cases.iter().zip(&times).map(|(case, own)| Row {
            timed: subject.timed(batch, own),
            part: case.name,
            dense_passes: times[0].speedup_over(own),
        }));
    }
    bar.finish_and_clear();
    match global.json {
        true => print_lines(&rows),
        false => print_table(subject, &rows),
    }
}

fn print_table(subject: &Subject, rows: &[Row]) {
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
            row.timed.batch.to_string(),
            format!("{:.2}", row.timed.images_per_s),
            format!("{:.2}", row.timed.ms_per_image.median),
            format!("{:.2}", row.dense_passes),
            row.timed.peak(),
        ]);
    }
    if let Some(row) = rows.first() {
        let left = subject.rates.iter().map(|&rate| f64::from(rate)).product();
        let title = row.timed.title();
        println!("{title}, {} of the patches left in stream 1", percent(left));
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
    /// The model without autodiff.
    frozen: PruningVit,
    /// What stream 0 found, for those that time stream 2 alone.
    dense: DensePass,
    optimizer: RefCell<ModuleOptimizer>,
}

impl<'a> Step<'a> {
    fn new(subject: &'a Subject, batch: usize, ragged: bool, device: &Device) -> Self {
        let images = subject.images(batch, device);
        let classes = subject.model.config().num_classes;
        let targets: Vec<usize> = (0..batch).map(|image| image % classes).collect();
        let frozen = subject.model.valid();
        let plain = images.clone().inner();
        let optimizer = build_optimizer(&OptimizerConfig::default(), &subject.model);
        Self {
            subject,
            ragged,
            seeds: (0..batch as u64).collect(),
            dense: stream_0(
                &frozen.vit,
                frozen.config(),
                &frozen.agents,
                plain,
                &targets,
            ),
            images,
            targets,
            optimizer: RefCell::new(optimizer),
            frozen,
        }
    }

    fn cases(&self) -> [Case<'_>; PARTS] {
        [
            Case::new("dense inference", || self.infer()),
            Case::new("stream 0", || drop(self.observe(false))),
            Case::new("stream 0 with a graph", || drop(self.observe(true))),
            Case::new("stream 1", || {
                drop(self.learn(ExecutionMode::Drop).backward())
            }),
            Case::new("stream 1 masked", || {
                drop(self.learn(ExecutionMode::Mask).backward())
            }),
            Case::new("stream 2, all agents", || self.cut_and_learn()),
            Case::new("stream 2 without shared blocks", || {
                self.embed_for_each_agent();
                self.cut_and_learn();
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
        let (model, images) = match graph {
            true => (&self.subject.model, self.images.clone()),
            false => (&self.frozen, self.images.clone().inner()),
        };
        stream_0(
            &model.vit,
            model.config(),
            &model.agents,
            images,
            &self.targets,
        )
    }

    /// Stream 1 as far as its loss.
    fn learn(&self, mode: ExecutionMode) -> Tensor<1> {
        let reducer = RankedReducer {
            agents: &self.frozen.agents,
            kept: self.subject.kept(self.targets.len(), self.ragged),
        };
        let vit = &self.subject.model.vit;
        stream_1(vit, &reducer, mode, self.images.clone(), &self.targets).loss
    }

    /// Stream 2 as far as its losses, one for each agent.
    fn cut(&self, dense: &DensePass) -> impl Iterator<Item = Tensor<1>> {
        let agents = &self.subject.model.agents;
        dense.observed.iter().enumerate().map(|(index, observed)| {
            let cuts = choose_cuts(observed, &self.seeds);
            let vit = &self.frozen.vit;
            stream_2(vit, agents, index, dense, &cuts, &self.targets, 0.0).loss
        })
    }

    /// Stream 2 alone.
    fn cut_and_learn(&self) {
        let loss = self.cut(&self.dense).reduce(|all, loss| all + loss);
        drop(loss.map(|loss| loss.backward()));
    }

    /// What stream 2 would compute anew for each agent if it shared nothing with stream 0.
    fn embed_for_each_agent(&self) {
        let vit = &self.frozen.vit;
        for &layer in &self.frozen.agents.layers {
            let batch = vit.embed(self.images.clone().inner());
            let prefix = vit.run_blocks(batch, 0..layer + 1, RunSettings::DENSE);
            prefix.batch.cls().into_data();
        }
    }

    /// All streams, one backward pass, the clip and the optimiser. Every round updates the same
    /// weights: those that the streams ran with.
    fn whole(&self) {
        let loss = self.learn(ExecutionMode::Drop);
        let loss = self
            .cut(&self.observe(false))
            .fold(loss, |all, loss| all + loss);
        let model = self.subject.model.clone();
        let mut grads = GradientsParams::from_grads(loss.backward(), &model);
        let (model, _) = clip_global_norm(model, &mut grads, 1.0, 1.0);
        self.optimizer.borrow_mut().step(1e-3, model, grads);
    }
}
