//! The parts of the published training step.

use std::cell::RefCell;

use apt_pruning_agent::{KeepRate, KeptCounts, RankedReducer};
use apt_rl_trainer::counterfactual::{DensePass, choose_cuts, stream_0, stream_1, stream_2};
use apt_rl_trainer::{OptimizerConfig, PruningVit, build_optimizer, clip_global_norm};
use apt_vit_model::{ExecutionMode, RunSettings};
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};

use super::clock::Case;

/// The name of a whole step.
pub const WHOLE: &str = "the whole step";

/// Classes for a batch of random images.
pub fn targets(model: &PruningVit, batch: usize) -> Vec<usize> {
    let classes = model.config().num_classes;
    (0..batch).map(|image| image % classes).collect()
}

/// A training step's parts and what they work on.
pub struct Step<'a> {
    model: &'a PruningVit,
    /// How many patches the agents keep in stream 1.
    kept: KeptCounts,
    device: &'a Device,
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
    /// With published agents, which keep `rates` of what is left, and random images.
    pub fn new(
        model: &'a PruningVit,
        rates: &[KeepRate],
        ragged: bool,
        images: Tensor<4>,
        device: &'a Device,
    ) -> Self {
        let (batch, patches) = (images.dims()[0], model.config().num_patches());
        let targets = targets(model, batch);
        let frozen = model.valid();
        let plain = images.clone().inner();
        let optimizer = build_optimizer(&OptimizerConfig::default(), model);
        Self {
            model,
            kept: if ragged {
                KeptCounts::ragged(patches, batch, rates)
            } else {
                KeptCounts::uniform(patches, batch, rates)
            },
            device,
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

    /// How many [`cases`](Self::cases) there are.
    pub fn number(whole_alone: bool) -> usize {
        if whole_alone { 2 } else { 8 }
    }

    /// The parts, the dense pass that they are compared with before them; or of them the whole step alone.
    pub fn cases(&self, whole_alone: bool) -> Vec<Case<'_>> {
        let dense = self.part("dense inference", || self.infer());
        let whole = self.part(WHOLE, || self.whole());
        if whole_alone {
            return vec![dense, whole];
        }
        vec![
            dense,
            self.part("stream 0", || drop(self.observe(false))),
            self.part("stream 0 with a graph", || drop(self.observe(true))),
            self.part("stream 1", || {
                drop(self.learn(ExecutionMode::Drop).backward())
            }),
            self.part("stream 1 masked", || {
                drop(self.learn(ExecutionMode::Mask).backward())
            }),
            self.part("stream 2, all agents", || self.cut_and_learn()),
            self.part("stream 2 without shared blocks", || {
                self.embed_for_each_agent();
                self.cut_and_learn();
            }),
            whole,
        ]
    }

    /// A part, which is over when the device is done with it.
    fn part<'b>(&'b self, name: &str, run: impl Fn() + 'b) -> Case<'b> {
        Case::new(name, move || {
            run();
            Ok(self.device.sync()?)
        })
    }

    fn infer(&self) {
        let images = self.images.clone().inner();
        let output = self.frozen.vit.forward(images, RunSettings::DENSE);
        output.logits.into_data();
    }

    /// Stream 0, or what it would be as part of a graph.
    fn observe(&self, graph: bool) -> DensePass {
        let (model, images) = if graph {
            (self.model, self.images.clone())
        } else {
            (&self.frozen, self.images.clone().inner())
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
            kept: self.kept.clone(),
        };
        let vit = &self.model.vit;
        stream_1(vit, &reducer, mode, self.images.clone(), &self.targets).loss
    }

    /// Stream 2 as far as its losses, one for each agent.
    fn cut(&self, dense: &DensePass) -> impl Iterator<Item = Tensor<1>> {
        let agents = &self.model.agents;
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
        let model = self.model.clone();
        let mut grads = GradientsParams::from_grads(loss.backward(), &model);
        let (model, _) = clip_global_norm(model, &mut grads, 1.0, 1.0);
        self.optimizer.borrow_mut().step(1e-3, model, grads);
    }
}
