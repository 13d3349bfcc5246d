use burn::prelude::*;

use crate::{Heads, Keys, Merge, Park, Parked, Sequences, UniformReducer};

/// Where in a block a reducer acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Between the attention and the MLP.
    AfterAttention,
    /// After the whole block.
    AfterBlock,
}

/// What a reducer wants to see beside the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// How much each image's CLS token attends to each token.
    pub cls_attention: bool,
    /// The attention's keys, averaged over the heads.
    pub keys: bool,
}

/// What a reducer sees. Nothing in it carries a gradient into the model.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// The block, 0-based.
    pub layer: usize,
    /// The tokens, `[rows, hidden]`.
    pub hidden: Tensor<2>,
    /// Whose rows they are, and which of them are still visible.
    pub sequences: &'a Sequences,
    /// The CLS token's attention to each row, averaged over heads; if asked for. Parked tokens take no share of it.
    pub cls_attention: Option<Vec<f32>>,
    /// The attention's keys; if asked for.
    pub keys: Option<Keys>,
    /// Tokens that are parked, where any are.
    pub parked: Option<&'a Parked>,
    /// The model's heads, for whoever asks what would be answered now; none where decisions are looked at again later.
    pub heads: Option<Heads<'a>>,
}

/// What shall happen to the tokens.
#[derive(Clone, Debug)]
pub struct Reduction {
    /// One entry a row: does the token stay? CLS stays and what is gone stays gone in any case.
    pub keep: Vec<bool>,
    /// What happens to the kept tokens first: they may take in what is removed.
    pub merge: Option<Merge>,
    /// What each row weighs as a key from now on, `[rows]`, from 0 to 1; a gradient reaches it. It
    /// multiplies what earlier layers said. The reducer gives 1 to CLS and to whatever else stands
    /// before the patches.
    pub mask: Option<Tensor<1>>,
    /// What is added to the tokens before anything happens to them, `[rows, hidden]`; a gradient reaches it.
    /// Zeros let a trainer learn the derivative by each token.
    pub shift: Option<Tensor<2>>,
    /// What the decision was made from, `[rows, 2]` (keep, remove), where the reducer has such.
    pub logits: Option<Tensor<2>>,
    /// Which images are answered now, whatever else happens to their tokens.
    pub exit: Option<Exit>,
    /// Which of the removed tokens CLS goes on reading, and which of those that it reads are computed again.
    pub park: Option<Park>,
    /// Slots of images that start over: they go through all blocks again with nothing removed, and the heads see what comes of
    /// that. In a run that does not begin at the first block they go on as they are.
    pub restart: Vec<usize>,
}

/// Images whose way ends here: no later block computes anything of them, and the heads see their first tokens as these are.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Their slots, each once.
    pub slots: Vec<usize>,
    /// What is added to the tokens that the heads see: to CLS, and where there is a head on the distillation token, to that one,
    /// `[slots, hidden]` each; nothing where there are none. Gradients flow through the sums.
    pub shifts: Vec<Tensor<2>>,
}

impl Reduction {
    /// These tokens stay, as they are.
    pub fn keep(keep: Vec<bool>) -> Self {
        Self {
            keep,
            merge: None,
            mask: None,
            shift: None,
            logits: None,
            exit: None,
            park: None,
            restart: Vec::new(),
        }
    }

    /// All tokens stay.
    pub fn none(sequences: &Sequences) -> Self {
        Self::keep(vec![true; sequences.num_rows()])
    }
}

/// Decides after some blocks which tokens the later blocks compute.
///
/// The model runs the decision in whatever [`ExecutionMode`](crate::ExecutionMode) it is asked
/// for; a reducer never knows which.
pub trait TokenReducer {
    /// Where it acts in block `layer` (0-based), if it acts there at all.
    fn placement(&self, layer: usize) -> Option<Placement>;

    /// What it has to see in block `layer`.
    fn needs(&self, _layer: usize) -> Needs {
        Needs::default()
    }

    /// Itself, if it decides about each image by what it observes of that image, and by
    /// [`Sequences::image`], alone. Batches may then run in parts, each on a thread of its own, and it observes
    /// each part by itself. None: it observes whole batches.
    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        None
    }

    /// Itself, if it leaves the same number of tokens in every image of a batch and decides by tensor operations which.
    /// A device of its own then runs the whole pass without waiting for the host. None: it decides on the host.
    fn uniform(&self) -> Option<&dyn UniformReducer> {
        None
    }

    /// Decides.
    fn reduce(&self, observation: &Observation<'_>) -> Reduction;
}
