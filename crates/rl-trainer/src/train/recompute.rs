//! Gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016),
//! one segment for each block.

use std::cell::RefCell;
use std::collections::HashMap;

use apt_vit_model::{
    ExecutionMode, LayerTrace, Needs, Observation, Placement, Reduction, RunSettings, TokenBatch,
    TokenReducer, Vit,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;

use super::gradients::merge;
use super::pass::PrunedPass;
use crate::algorithm::losses::cross_entropy;

/// The pruned pass and its backward pass without keeping more than the tokens between the blocks: each
/// block runs once more when its gradients are due, with the same dropout and the same removed
/// tokens. Gives what [`pruned_pass`](super::pruned_pass) and its backward pass give.
///
/// `seed` seeds the dropout; `scale` multiplies the loss before the backward pass.
///
/// The pass's loss and logits have no gradient any more, and none reaches a reducer's
/// [`mask`](Reduction::mask): it is a constant here.
pub fn pruned_pass_recomputed(
    vit: &Vit,
    reducer: &dyn TokenReducer,
    mode: ExecutionMode,
    images: Tensor<4>,
    targets: &[usize],
    seed: impl Fn(u64),
    scale: f32,
) -> (PrunedPass, GradientsParams) {
    let layers = vit.blocks.len();
    let mut inputs: Vec<TokenBatch> = Vec::with_capacity(layers + 1);
    let mut trace: Vec<LayerTrace> = Vec::new();
    let recording = Recording {
        reducer,
        decisions: RefCell::default(),
    };
    seed(0);
    inputs.push(without_graph(vit.embed(images.clone())));
    free_graph_of(vit.embedding.cls_token.val());
    for layer in 0..layers {
        seed(1 + layer as u64);
        let settings = RunSettings {
            mode,
            reducer: Some(&recording),
        };
        let input = with_graph(&inputs[layer]);
        let encoded = vit.run_blocks(input.clone(), layer..layer + 1, settings);
        trace.extend(encoded.trace);
        inputs.push(without_graph(encoded.batch));
        free_graph_of(input.tokens);
    }

    let mut grads = GradientsParams::new();
    let last = with_graph(&inputs[layers]);
    let logits = vit.classify(&last);
    let loss = cross_entropy(logits.clone(), targets);
    let mut of_segment = (loss.clone() * scale).backward();
    let mut gradient = last.tokens.grad(&of_segment);
    collect(&vit.norm, &mut of_segment, &mut grads);
    collect(&vit.head, &mut of_segment, &mut grads);
    collect(&vit.distillation_head, &mut of_segment, &mut grads);

    for layer in (0..layers).rev() {
        let Some(upstream) = gradient.take().filter(|_| learns_up_to(vit, layer)) else {
            break;
        };
        seed(1 + layer as u64);
        let input = with_graph(&inputs[layer]);
        let settings = RunSettings {
            mode,
            reducer: Some(&Again(&recording)),
        };
        let output = vit
            .run_blocks(input.clone(), layer..layer + 1, settings)
            .batch;
        let mut of_segment = backward(output.tokens, upstream);
        gradient = input.tokens.grad(&of_segment);
        collect(&vit.blocks[layer], &mut of_segment, &mut grads);
    }
    if let Some(upstream) = gradient.filter(|_| learns(&vit.embedding)) {
        seed(0);
        let mut of_segment = backward(vit.embed(images).tokens, upstream);
        collect(&vit.embedding, &mut of_segment, &mut grads);
    }
    let pass = PrunedPass {
        logits: logits.without_autodiff(),
        loss: loss.without_autodiff(),
        trace,
    };
    (pass, grads)
}

/// The gradients that reach a segment from `tokens`, given those of `tokens` themselves.
fn backward(tokens: Tensor<2>, upstream: Tensor<2>) -> burn::tensor::Gradients {
    let upstream = upstream.autodiff();
    (tokens * upstream).sum().backward()
}

/// The gradients of one part, taken out of those of a backward pass.
fn collect<M: Module>(part: &M, from: &mut burn::tensor::Gradients, into: &mut GradientsParams) {
    let more = GradientsParams::from_module(from, part);
    merge(part, into, more);
}

/// Burn frees what nothing refers to any more when there is a backward pass in the same graph: here
/// is one, of next to nothing. Dropout would not drop without a graph.
fn free_graph_of<const D: usize>(leaf: Tensor<D>) {
    if leaf.is_require_grad() {
        leaf.narrow(0, 0, 1).sum().backward();
    }
}

fn without_graph(mut batch: TokenBatch) -> TokenBatch {
    batch.tokens = batch.tokens.without_autodiff();
    batch.key_mask = batch.key_mask.map(Tensor::without_autodiff);
    batch
}

fn with_graph(batch: &TokenBatch) -> TokenBatch {
    let mut batch = batch.clone();
    batch.tokens = batch.tokens.autodiff().require_grad();
    batch
}

/// Does anything up to this block learn?
fn learns_up_to(vit: &Vit, layer: usize) -> bool {
    learns(&vit.embedding) || vit.blocks[..=layer].iter().any(learns)
}

fn learns<M: Module>(part: &M) -> bool {
    struct Any(bool);
    impl ModuleVisitor for Any {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.val().is_require_grad();
        }
    }
    let mut any = Any(false);
    part.visit(&mut any);
    any.0
}

/// Remembers what a reducer decides.
struct Recording<'a> {
    reducer: &'a dyn TokenReducer,
    /// By block.
    decisions: RefCell<HashMap<usize, Reduction>>,
}

impl TokenReducer for Recording<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.reducer.placement(layer)
    }

    fn needs(&self, layer: usize) -> Needs {
        self.reducer.needs(layer)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let reduction = self.reducer.reduce(observation);
        let mut decisions = self.decisions.borrow_mut();
        decisions.insert(observation.layer, reduction.clone());
        reduction
    }
}

/// Decides what was decided before.
struct Again<'a>(&'a Recording<'a>);

impl TokenReducer for Again<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.0.placement(layer)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let decisions = self.0.decisions.borrow();
        match decisions.get(&observation.layer) {
            Some(reduction) => reduction.clone(),
            None => Reduction::none(observation.sequences),
        }
    }
}
