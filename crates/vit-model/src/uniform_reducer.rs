//! What a reducer that decides on the device sees and says.

use burn::prelude::*;

use crate::kernels::Rows;

/// What a [`UniformReducer`] sees of a batch whose images all have the same number of tokens. Nothing of it is on the
/// host, and nothing in it carries a gradient into the model.
#[derive(Clone, Debug)]
pub struct UniformObservation {
    /// The block, 0-based.
    pub layer: usize,
    /// Tokens before the patches, which are never removed.
    pub prefix: usize,
    /// The tokens, `[batch * tokens, hidden]`.
    pub(crate) rows: Rows,
    pub(crate) batch: usize,
    /// The CLS token's attention to each token, averaged over heads, `[batch, tokens]`; if asked for.
    pub cls_attention: Option<Tensor<2>>,
    /// The attention's keys, averaged over the heads, as unit vectors, `[batch, tokens, width]`; if asked for.
    pub keys: Option<Tensor<3>>,
    /// How many patches each token stands for, `[batch, tokens]`, where any were merged and that counts.
    pub sizes: Option<Tensor<2>>,
}

impl UniformObservation {
    /// Images.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens of each image, those before the patches included.
    pub fn tokens(&self) -> usize {
        self.rows.tokens.dims()[0] / self.batch
    }

    /// Where the tokens are.
    pub fn device(&self) -> Device {
        self.rows.tokens.device()
    }

    /// The tokens, `[batch, tokens, hidden]`, in the floats that the model keeps between its blocks.
    pub fn hidden(&self) -> Tensor<3> {
        let rows = self.rows.sum().without_autodiff();
        let [count, hidden] = rows.dims();
        rows.reshape([self.batch, count / self.batch, hidden])
    }
}

/// What shall happen to the tokens of each image.
#[derive(Clone, Debug)]
pub struct UniformReduction {
    /// Does the token stay? `[batch, tokens]`, the same number in each row, tokens before the patches included.
    pub keep: Tensor<2, Bool>,
    /// That number.
    pub left: usize,
    /// Who takes in what is removed; lost without it.
    pub merge: Option<UniformMerge>,
    /// What the decision was made from, `[batch * tokens, 2]` (keep, remove), where the reducer has such.
    pub logits: Option<Tensor<2>>,
}

/// Which tokens take in which others.
#[derive(Clone, Debug)]
pub struct UniformMerge {
    /// The token of the same image into which a removed one goes, `[batch, tokens]`; that one stays. What it says of
    /// tokens that stay does not matter.
    pub into: Tensor<2, Int>,
    /// See [`Merge::proportion`](crate::Merge::proportion); it counts where the weights are sizes.
    pub proportion: f32,
    /// How they add up.
    pub weights: MergeWeights,
}

/// What tokens weigh in the sums that merged tokens are.
#[allow(clippy::large_enum_variant)] // one for a block, not many
#[derive(Clone, Debug)]
pub enum MergeWeights {
    /// As many patches as each stands for, divided by their sum: the mean. The sums are the new sizes.
    Sizes,
    /// These, `[batch, tokens]`; sizes do not count.
    Given(Tensor<2>),
}

/// A [`TokenReducer`](crate::TokenReducer) that leaves the same number of tokens in each image, and decides by tensor
/// operations alone which those are. What it needs beside the observation it makes on the device (`arange`, `full`,
/// `zeros`): copying values there counts as a wait, as reading them does.
pub trait UniformReducer {
    /// Decides. None: nothing happens in this block.
    fn reduce_uniformly(&self, observation: &UniformObservation) -> Option<UniformReduction>;
}
