//! What the training step asks of an algorithm.

use std::collections::BTreeMap;
use std::fmt::Debug;

use apt_data::{Batch, mix_seed};
use apt_inference::PruningVit;
use apt_pruning_agent::{Agents, Policy, Selection, TokenPredictor, TokenPredictorConfig};
use apt_vit_model::{ExecutionMode, FlopsCount, TokenReducer, Vit, VitConfig};
use burn::prelude::*;
use burn::tensor::Gradients;

/// How a policy learns. It keeps what it has to remember from step to step itself.
pub trait Algorithm: Debug + Send + Sync {
    /// What the policy's losses are multiplied by. Gradients are clipped together: large ones of the policy shrink the
    /// model's.
    fn loss_weight(&self) -> f32 {
        0.01
    }

    /// The networks that say how an image will fare, one for each block of the policy, where it has such (an
    /// actor-critic). They are trained and saved with the policy.
    fn critic(&self, _hidden_size: usize) -> Option<TokenPredictorConfig> {
        None
    }

    /// Begins to learn from one forward pass, before the model's own pass runs.
    fn begin<'a>(&'a self, pass: &'a Pass<'a>) -> Box<dyn Lesson + 'a>;

    /// FLOPs of one image in a pass from which the policy learns, beside those of the model's own pass, at `share` of the
    /// dense FLOPs.
    fn flops(&self, model: &VitConfig, policy: &dyn Policy, share: f64) -> FlopsCount;

    /// After so many passes from which the policy learns, they cost the same again.
    fn period(&self) -> usize {
        1
    }
}

/// A forward pass from which a policy learns.
pub struct Pass<'a> {
    /// The model that learns, with autodiff.
    pub vit: &'a Vit,
    /// The policy's agents that learn, with autodiff.
    pub agents: &'a dyn Agents,
    /// The critics that learn, with autodiff; none where the algorithm has none.
    pub critics: &'a [TokenPredictor],
    /// Model and policy without autodiff.
    pub frozen: &'a PruningVit,
    /// How much the policy removes in the model's own pass, unless that is dense.
    pub selection: &'a Selection,
    /// Is the model's own pass dense, so that the policy learns without acting?
    pub is_dense: bool,
    /// `[batch, 3, height, width]`, with autodiff.
    pub images: Tensor<4>,
    /// The class of each image.
    pub targets: &'a [usize],
    /// What random choices derive from.
    pub seeds: &'a Seeds,
    /// The first image of the device's part of the batch.
    pub part: usize,
    /// Which of the passes of an optimiser step it is.
    pub slot: u64,
}

impl Pass<'_> {
    /// The images without autodiff.
    pub fn plain_images(&self) -> Tensor<4> {
        self.images.clone().without_autodiff()
    }

    /// The device of the model that learns, with autodiff.
    pub fn device(&self) -> Device {
        self.images.device()
    }
}

/// What an algorithm does with one forward pass.
pub trait Lesson {
    /// Another reducer for the model's own pass than the policy's, and how that pass runs then.
    fn own_pass(&self) -> Option<(ExecutionMode, &dyn TokenReducer)> {
        None
    }

    /// What is added to the model's own loss, `[1]`: it trains the policy through the model's own backward pass.
    fn loss_beside_the_models(&self) -> Option<Tensor<1>> {
        None
    }

    /// Has the model's own backward pass to run before [`losses`](Self::losses)? Then
    /// [`AlgorithmSettings::LEARNS_FROM_BACKWARD`](super::AlgorithmSettings::LEARNS_FROM_BACKWARD) is true.
    fn wants_gradients(&self) -> bool {
        false
    }

    /// Reward and loss, after the model's own pass. `gradients` are those of the model's own losses (classes, and
    /// distillation where it is asked for) times `scale`, where they were asked for.
    fn losses(self: Box<Self>, gradients: Option<&Gradients>, scale: f32) -> PolicyLosses;
}

/// What a policy learns from one forward pass.
#[derive(Clone, Debug, Default)]
pub struct PolicyLosses {
    /// One for each of the policy's blocks, `[1]`; none where it learns through the model's own loss.
    pub of_blocks: Vec<Tensor<1>>,
    /// Numbers to log, by metric name.
    pub values: BTreeMap<String, f64>,
    /// FLOPs of an image beside the model's own pass, counted in what ran; mean over the batch.
    pub flops: f64,
}

/// Which random choice a seed is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Fresh weights.
    Weights = 1,
    /// Dropout.
    Dropout = 2,
    /// The token that is cut.
    Cut = 3,
    /// The budget of a batch.
    Budget = 4,
    /// A policy's own random choices.
    Policy = 5,
}

/// The seeds of a batch's images.
#[derive(Clone, Debug)]
pub struct Seeds {
    seed: u64,
    number: u64,
    indices: Vec<usize>,
}

impl Seeds {
    /// Of a batch in a training with this seed.
    pub fn new(seed: u64, batch: &Batch) -> Self {
        Self {
            seed,
            number: batch.place.number,
            indices: batch.indices.clone(),
        }
    }

    /// One for each image; `more` tells several choices of one purpose apart.
    pub fn of(&self, purpose: Purpose, more: u64) -> Vec<u64> {
        let of_image = |&index: &usize| {
            let (seed, number) = (self.seed, self.number);
            match more {
                0 => mix_seed(&[seed, purpose as u64, number, index as u64]),
                more => mix_seed(&[seed, purpose as u64, number, index as u64, more]),
            }
        };
        self.indices.iter().map(of_image).collect()
    }
}
