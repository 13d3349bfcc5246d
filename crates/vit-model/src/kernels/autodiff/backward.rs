//! What each operation saves, and its backward pass.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, unary};
use burn::backend::tensor::FloatTensor;

use super::super::own::{Kernels, Mask};
use super::super::{FusedOps, RowSums, Spans};
use crate::Precision;

#[derive(Debug)]
pub(super) struct AttentionBackward;

#[derive(Clone, Debug)]
pub(super) struct AttentionState<B: FusedOps> {
    pub kernels: &'static dyn Kernels<B>,
    pub qkv: FloatTensor<B>,
    pub forward: (FloatTensor<B>, FloatTensor<B>),
    pub spans: Arc<Spans>,
    pub num_heads: usize,
}

impl<B: FusedOps> Backward<B, 1> for AttentionBackward {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let AttentionState {
            kernels,
            qkv,
            forward,
            spans,
            num_heads,
        } = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
            kernels.attention_backward(&qkv, &forward, &gradient, &spans, num_heads)
        });
    }
}

#[derive(Debug)]
pub(super) struct SumRowsBackward;

impl<B: FusedOps> Backward<B, 1> for SumRowsBackward {
    type State = (&'static dyn Kernels<B>, Arc<RowSums>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (kernels, sums) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
            kernels.sum_rows(&gradient, &sums.transposed())
        });
    }
}

#[derive(Debug)]
pub(super) struct MaskedAttentionBackward;

impl<B: FusedOps> Backward<B, 2> for MaskedAttentionBackward {
    /// With the key mask.
    type State = (AttentionState<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (state, key_mask) = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = state.kernels.masked_attention_backward(
            [&state.qkv, &key_mask],
            &state.forward,
            &gradient,
            &state.spans,
            state.num_heads,
            wanted,
        );
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B>(&parents, results, grads);
    }
}

/// Tells parents their gradients, where both are there.
fn register<B: FusedOps>(
    parents: &[Option<NodeId>],
    results: impl IntoIterator<Item = Option<FloatTensor<B>>>,
    grads: &mut Gradients,
) {
    for (parent, gradient) in parents.iter().zip(results) {
        if let (Some(parent), Some(gradient)) = (parent, gradient) {
            grads.register::<B>(*parent, gradient);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct LinearState<B: FusedOps> {
    pub kernels: &'static dyn Kernels<B>,
    pub input: FloatTensor<B>,
    pub weight: FloatTensor<B>,
    pub before_gelu: Option<FloatTensor<B>>,
    pub mask: Option<Mask>,
    pub precision: Precision,
}

impl<B: FusedOps> LinearState<B> {
    fn backward<const N: usize>(
        self,
        parents: &[Option<NodeId>; N],
        gradient: FloatTensor<B>,
        grads: &mut Gradients,
    ) {
        let Self {
            kernels,
            input,
            weight,
            before_gelu,
            mask,
            precision,
        } = self;
        let wanted = [0, 1, 2].map(|parent| parents[parent].is_some());
        let before_gelu = before_gelu.as_ref();
        let results = kernels.linear_backward(
            [&input, &weight],
            before_gelu,
            mask,
            gradient,
            wanted,
            precision,
        );
        register::<B>(parents, results, grads);
    }
}

#[derive(Debug)]
pub(super) struct LinearBackward;

impl<B: FusedOps> Backward<B, 3> for LinearBackward {
    type State = LinearState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        ops.state.backward(&parents, gradient, grads);
    }
}

#[derive(Debug)]
pub(super) struct LinearAddBackward;

impl<B: FusedOps> Backward<B, 4> for LinearAddBackward {
    type State = LinearState<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        if let Some(residual) = parents[3] {
            grads.register::<B>(residual, gradient.clone());
        }
        ops.state.backward(&parents, gradient, grads);
    }
}

#[derive(Debug)]
pub(super) struct LayerNormBackward;

#[derive(Clone, Debug)]
pub(super) struct LayerNormState<B: FusedOps> {
    pub kernels: &'static dyn Kernels<B>,
    pub input: FloatTensor<B>,
    pub gamma: FloatTensor<B>,
    pub statistics: FloatTensor<B>,
}

impl<B: FusedOps> Backward<B, 3> for LayerNormBackward {
    type State = LayerNormState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let LayerNormState {
            kernels,
            input,
            gamma,
            statistics,
        } = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = kernels.layer_norm_backward(&input, &gamma, &statistics, &gradient, wanted);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B>(&parents, results, grads);
    }
}
