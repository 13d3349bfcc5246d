//! The parts of the published training step.

use std::cell::RefCell;

use apt_inference::PruningVit;
use apt_pruning_agent::{KeepRate, Selection};
use apt_rl_trainer::algorithm::counterfactual::{DensePass, choose_cuts, cut_pass, dense_pass};
use apt_rl_trainer::{OptimizerConfig, build_optimizer, clip_global_norm, pruned_pass};
use apt_vit_model::{ExecutionMode, RunSettings};
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};

use super::clock::Case;

/// The name of a whole step.
pub const WHOLE: &str = "the whole step";

/// Classes for a batch of random images.
pub fn targets(classes: usize, batch: usize) -> Vec<usize> {
    (0..batch).map(|image| image % classes).collect()
}

/// A training step's parts and what they work on.
pub struct Step<'a> {
    model: &'a PruningVit,
    /// How many patches the agents keep in the pruned pass.
    kept: Selection,
    device: &'a Device,
    images: Tensor<4>,
    targets: Vec<usize>,
    seeds: Vec<u64>,
    /// The model without autodiff.
    frozen: PruningVit,
    /// What the dense pass found, for what times the cut passes alone.
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
        let targets = targets(model.config().num_classes, batch);
        let frozen = model.valid();
        let plain = images.clone().inner();
        let optimizer = build_optimizer(&OptimizerConfig::default(), model);
        Self {
            model,
            kept: if ragged {
                Selection::ragged(patches, batch, rates)
            } else {
                Selection::at_rates(patches, rates)
            },
            device,
            seeds: (0..batch as u64).collect(),
            dense: dense_pass(&frozen, plain, &targets),
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
            self.part("the dense pass", || drop(self.observe(false))),
            self.part("the dense pass with a graph", || drop(self.observe(true))),
            self.part("the pruned pass", || {
                drop(self.learn(ExecutionMode::Drop).backward())
            }),
            self.part("the pruned pass, masked", || {
                drop(self.learn(ExecutionMode::Mask).backward())
            }),
            self.part("the cut passes of all agents", || self.cut_and_learn()),
            self.part("the cut passes without shared blocks", || {
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

    /// The dense pass (stream 0 of the original), or what it would be as part of a graph.
    fn observe(&self, graph: bool) -> DensePass {
        let (model, images) = if graph {
            (self.model, self.images.clone())
        } else {
            (&self.frozen, self.images.clone().inner())
        };
        dense_pass(model, images, &self.targets)
    }

    /// The pruned pass (stream 1) as far as its loss.
    fn learn(&self, mode: ExecutionMode) -> Tensor<1> {
        let reducer = self.frozen.policy.reducer(&self.kept, &[]);
        let vit = &self.model.vit;
        pruned_pass(vit, &*reducer, mode, self.images.clone(), &self.targets).loss
    }

    /// The cut passes (stream 2) as far as their losses, one for each agent.
    fn cut<'b>(&'b self, dense: &'b DensePass) -> impl Iterator<Item = Tensor<1>> + 'b {
        let agents = self.model.policy.agents();
        let observed = dense.observed.iter().enumerate();
        observed.filter_map(move |(index, observed)| {
            let cuts = choose_cuts(observed, &self.seeds);
            let vit = &self.frozen.vit;
            Some(cut_pass(vit, agents?, index, dense, &cuts, &self.targets).loss)
        })
    }

    /// The cut passes alone.
    fn cut_and_learn(&self) {
        let loss = self.cut(&self.dense).reduce(|all, loss| all + loss);
        drop(loss.map(|loss| loss.backward()));
    }

    /// What the cut passes would compute anew for each agent if they shared nothing with the dense pass.
    fn embed_for_each_agent(&self) {
        let vit = &self.frozen.vit;
        for &layer in self.frozen.policy.blocks() {
            let batch = vit.embed(self.images.clone().inner());
            let prefix = vit.run_blocks(batch, 0..layer + 1, RunSettings::DENSE);
            prefix.batch.cls().into_data();
        }
    }

    /// All passes, one backward pass, the clip and the optimiser. Every round updates the same
    /// weights: those that the passes ran with.
    fn whole(&self) {
        let loss = self.learn(ExecutionMode::Drop);
        let dense = self.observe(false);
        let loss = self.cut(&dense).fold(loss, |all, loss| all + loss);
        let model = self.model.clone();
        let mut grads = GradientsParams::from_grads(loss.backward(), &model);
        let (model, _) = clip_global_norm(model, &mut grads, 1.0, 1.0);
        self.optimizer.borrow_mut().step(1e-3, model, grads);
    }
}
