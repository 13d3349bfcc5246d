//! What every policy says of itself.

use std::fmt::Debug;

use apt_vit_model::{
    FlopsCount, LayerTrace, Needs, Observation, Placement, TokenReducer, VitConfig,
};
use burn::prelude::*;

use crate::any_module::{AnyMapper, AnyVisitor};
use crate::budget::own_flops;
use crate::exiting::Exits;
use crate::parking::Parking;
use crate::{AgentError, Selection, SelectionNoise};

/// One way to decide which tokens stay, with its weights if it has any. Its settings make it
/// ([`PolicySettings::init`](crate::PolicySettings::init)). Its parameters are floats of one to four dimensions; others are
/// neither saved nor trained. It derives [`Module`], with `#[module(skip)]` on what is no weight.
pub trait Policy: PolicyModule {
    /// The blocks (0-based) in which it acts, ascending.
    fn blocks(&self) -> &[usize];

    /// Where in each of these blocks it acts.
    fn placement(&self) -> Placement {
        Placement::AfterBlock
    }

    /// The policy as a reducer that removes what `selection` says. One without agents knows counts alone
    /// ([`Selection::kept`]): where there are none, nothing goes.
    ///
    /// `seeds` has one entry for each image of the batch; a policy that draws random numbers draws them from these.
    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        seeds: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a>;

    /// The FLOPs of its own decision about one image, matrix products alone as in the model's own count, in a block where it sees `seen` tokens and leaves `left`, both
    /// with the tokens before the patches.
    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount;

    /// The same in block `layer`, where its blocks cost differently.
    fn flops_in(&self, _layer: usize, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        self.flops(model, seen, left)
    }

    /// How many tokens leave a block that `seen` tokens enter, where `kept` patches are to stay.
    fn left(&self, model: &VitConfig, seen: usize, kept: usize) -> usize {
        (kept + model.num_prefix_tokens()).min(seen)
    }

    /// How many patches to keep after each of its blocks, so that model and policy compute `share` of the dense
    /// model's FLOPs, or as little below as tokens allow. See [`kept_at_equal_rates`](crate::kept_at_equal_rates) and
    /// [`kept_at_equal_counts`](crate::kept_at_equal_counts).
    ///
    /// # Errors
    ///
    /// Where it cannot compute so little or so much.
    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError>;

    /// How a trained policy meets a budget.
    fn budgeting(&self) -> Budgeting {
        Budgeting::Counts
    }

    /// What it removes at a price of FLOPs, where that is its [`Budgeting`]: the higher the price, the more.
    fn at_price(&self, price: f64) -> Selection {
        Selection::Price { price }
    }

    /// Its agents, if it learns.
    fn agents(&self) -> Option<&dyn Agents> {
        None
    }

    /// What it parks is read by, if it parks what it removes.
    fn parking(&self) -> Option<&Parking> {
        None
    }

    /// From now on it reads what it parks by this.
    fn set_parking(&mut self, _parking: Parking) {}

    /// Does it park what it removes?
    fn parks(&self) -> bool {
        self.parking().is_some()
    }

    /// Its exits, if images can be answered before the last block.
    fn exits(&self) -> Option<&Exits> {
        None
    }
}

impl dyn Policy + '_ {
    /// The FLOPs of its decisions about image `image` of a batch that it acted on.
    pub fn trace_flops(&self, model: &VitConfig, trace: &[LayerTrace], image: usize) -> FlopsCount {
        let flops = trace.iter().map(|entry| {
            let (seen, left) = (entry.seen[image], entry.left[image]);
            own_flops(self, entry.layer, model, seen, left)
        });
        flops.sum()
    }
}

/// How a trained policy meets a budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budgeting {
    /// It keeps as many patches in every image as [`Policy::kept_for`] says: nothing is fitted.
    Counts,
    /// Each block has a least score, fitted on held-out images.
    Scores,
    /// One least score is that of every block: scores mean the same in all of them. It is fitted on held-out images.
    Level {
        /// No score is further from 0 than this.
        most: f64,
    },
    /// A number of patches for each block, the same for every image: those with the most similar answers are searched on
    /// held-out images. Without a search, it keeps as many as [`Policy::kept_for`] says.
    Schedule,
    /// One price of FLOPs decides image by image how much merges ([`Policy::at_price`]). It is fitted on held-out images.
    Allocation,
    /// All images keep as many patches as [`Policy::kept_for`] says for a part of the budget, and those whose answer is not
    /// certain start over. How certain it has to be is fitted on held-out images.
    Certainty {
        /// The part of the budget that the first pass takes.
        first: f64,
    },
    /// One price of computing gives every block its least score: the scores are logarithms of the same quantity in every
    /// block. The price is fitted on held-out images.
    Price,
}

/// The agents of a policy: networks that score tokens, one for each of its blocks, and learn to.
pub trait Agents: Sync {
    /// What they have to see in block `layer`, beside the tokens.
    fn needs(&self, _layer: usize) -> Needs {
        Needs::default()
    }

    /// What agent `index` makes of the tokens, `[rows, 2]`: class 0 keeps a token, class 1 removes it. Gradients reach
    /// the agent.
    fn logits(&self, index: usize, observation: &Observation<'_>) -> Tensor<2>;

    /// The same for some of the rows, `[rows.len(), 2]`.
    fn logits_of_rows(
        &self,
        index: usize,
        observation: &Observation<'_>,
        rows: Tensor<1, Int>,
    ) -> Tensor<2> {
        self.logits(index, observation).select(0, rows)
    }

    /// As [`logits`](Self::logits), for a decision alone: no gradient has to go through it.
    fn judge(&self, index: usize, observation: &Observation<'_>) -> Tensor<2> {
        self.logits(index, observation)
    }

    /// As [`judge`](Self::judge), of images that all have the same number of tokens: `[batch, tokens, hidden]` to
    /// `[batch, tokens, 2]`. None where the network has no such form.
    fn judge_images(&self, _index: usize, _hidden: Tensor<3>) -> Option<Tensor<3>> {
        None
    }

    /// Has it the form of [`judge_images`](Self::judge_images)?
    fn judges_images(&self) -> bool {
        false
    }

    /// What becomes of the patches that they remove.
    fn removal(&self) -> Removal {
        Removal::Dropped
    }

    /// Images keep as many patches as they are worth, instead of all the same number.
    fn is_adaptive(&self) -> bool {
        false
    }

    /// The policy with noise on its scores, so that other decisions are tried, too.
    fn noisy_reducer<'a>(
        &'a self,
        selection: &Selection,
        noise: SelectionNoise,
    ) -> Box<dyn TokenReducer + 'a>;
}

/// What becomes of a patch that agents remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is dropped.
    Dropped,
    /// It merges into the most similar patch that stays.
    MergedIntoNearest,
    /// It merges into the patch that bipartite matching gave it: only half of the patches can go, and agents score
    /// pairs.
    MergedInPairs,
}

/// What [`AnyPolicy`](crate::AnyPolicy) needs of a policy's module. Every [`Module`] has it.
pub trait PolicyModule: Debug + Send + Sync {
    /// A copy with the same weights.
    fn clone_policy(&self) -> Box<dyn Policy>;
    /// [`Module::collect_devices`]
    fn collect_policy_devices(&self, devices: Vec<Device>) -> Vec<Device>;
    /// [`Module::fork`]
    fn fork_policy(self: Box<Self>, device: &Device) -> Box<dyn Policy>;
    /// [`Module::to_device`]
    fn move_policy(self: Box<Self>, device: &Device) -> Box<dyn Policy>;
    /// [`Module::valid`]
    fn valid_policy(&self) -> Box<dyn Policy>;
    /// [`Module::train`]
    fn train_policy(self: Box<Self>) -> Box<dyn Policy>;
    /// [`Module::materialize`]
    fn materialize_policy(self: Box<Self>) -> Box<dyn Policy>;
    /// [`Module::visit`]
    fn visit_policy(&self, visitor: &mut dyn AnyVisitor);
    /// [`Module::map`]
    fn map_policy(self: Box<Self>, mapper: &mut dyn AnyMapper) -> Box<dyn Policy>;
}
