//! The kernels in Burn's gradient graph: what each operation saves, and its backward pass.
//! Where the inner backend has no kernels, Burn differentiates the composed operations.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::{Device, FloatTensor};
use burn::backend::{Autodiff, TensorMetadata};

use super::{FusedOps, Kernels, Mask, RowSums, Spans, Then, composed, kernels_for};
use crate::Precision;

impl<B: FusedOps, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    const LENGTH_STEP: fn(&Device<Self>) -> usize = B::LENGTH_STEP;

    fn packed_attention(
        qkv: FloatTensor<Self>,
        spans: Arc<Spans>,
        num_heads: usize,
    ) -> FloatTensor<Self> {
        let Some(kernels) = kernels_for::<B>(qkv.primitive()) else {
            let step = (B::LENGTH_STEP)(&qkv.device());
            return composed::attention::<Self>(qkv, None, &spans, num_heads, step);
        };
        let (qkv, node) = qkv.into_parts();
        let forward = kernels.attention(&qkv, &spans, num_heads);
        let output = forward.0.clone();
        match AttentionBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let state = AttentionState {
                    kernels,
                    qkv,
                    forward,
                    spans,
                    num_heads,
                };
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn masked_attention(
        qkv: FloatTensor<Self>,
        key_mask: FloatTensor<Self>,
        spans: Arc<Spans>,
        num_heads: usize,
    ) -> FloatTensor<Self> {
        let Some(kernels) = kernels_for::<B>(qkv.primitive()) else {
            let step = (B::LENGTH_STEP)(&qkv.device());
            return composed::attention::<Self>(qkv, Some(key_mask), &spans, num_heads, step);
        };
        let [(qkv, a), (key_mask, b)] = [qkv, key_mask].map(|t| t.into_parts());
        let forward = kernels.masked_attention(&qkv, &key_mask, &spans, num_heads);
        let output = forward.0.clone();
        match MaskedAttentionBackward
            .prepare::<C>([a, b])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let attention = AttentionState {
                    kernels,
                    qkv,
                    forward,
                    spans,
                    num_heads,
                };
                prep.finish((attention, key_mask), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn fused_linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let Some(kernels) = kernels_for::<B>(input.primitive()) else {
            return composed::linear::<Self>([input, weight, bias]);
        };
        let [(input, a), (weight, b), (bias, c)] = [input, weight, bias].map(|t| t.into_parts());
        let output = kernels
            .linear(&input, &weight, &bias, Then::End, None, precision)
            .0;
        match LinearBackward
            .prepare::<C>([a, b, c])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let state = LinearState {
                    kernels,
                    input,
                    weight,
                    before_gelu: None,
                    mask: None,
                    precision,
                };
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn fused_linear_gelu(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dropout: Option<f64>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let Some(kernels) = kernels_for::<B>(input.primitive()) else {
            return composed::linear_gelu::<Self>([input, weight, bias], dropout);
        };
        let [(input, a), (weight, b), (bias, c)] = [input, weight, bias].map(|t| t.into_parts());
        let mask = dropout.map(|probability| kernels.mask(probability));
        let run =
            |keep| kernels.linear(&input, &weight, &bias, Then::Gelu { keep }, mask, precision);
        match LinearBackward
            .prepare::<C>([a, b, c])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (output, before_gelu) = run(true);
                prep.finish(
                    LinearState {
                        kernels,
                        input,
                        weight,
                        before_gelu,
                        mask,
                        precision,
                    },
                    output,
                )
            }
            OpsKind::UnTracked(prep) => prep.finish(run(false).0),
        }
    }

    fn fused_linear_add(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        dropout: Option<f64>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let Some(kernels) = kernels_for::<B>(input.primitive()) else {
            return composed::linear_add::<Self>([input, weight, bias], residual, dropout);
        };
        let [(input, a), (weight, b), (bias, c), (residual, d)] =
            [input, weight, bias, residual].map(|t| t.into_parts());
        let mask = dropout.map(|probability| kernels.mask(probability));
        let output = kernels
            .linear(
                &input,
                &weight,
                &bias,
                Then::Add(&residual),
                mask,
                precision,
            )
            .0;
        match LinearAddBackward
            .prepare::<C>([a, b, c, d])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(
                LinearState {
                    kernels,
                    input,
                    weight,
                    before_gelu: None,
                    mask,
                    precision,
                },
                output,
            ),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn sum_rows(input: FloatTensor<Self>, sums: Arc<RowSums>) -> FloatTensor<Self> {
        let Some(kernels) = kernels_for::<B>(input.primitive()) else {
            return composed::sum_rows::<Self>(input, &sums, B::FILL);
        };
        let (input, node) = input.into_parts();
        let output = kernels.sum_rows(&input, &sums);
        match SumRowsBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((kernels, sums), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn fused_layer_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let Some(kernels) = kernels_for::<B>(input.primitive()) else {
            return composed::layer_norm::<Self>([input, gamma, beta], epsilon);
        };
        let [(input, a), (gamma, b), (beta, c)] = [input, gamma, beta].map(|t| t.into_parts());
        let (output, statistics) = kernels.layer_norm(&input, &gamma, &beta, epsilon);
        match LayerNormBackward
            .prepare::<C>([a, b, c])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(
                LayerNormState {
                    kernels,
                    input,
                    gamma,
                    statistics,
                },
                output,
            ),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

#[derive(Clone, Debug)]
struct AttentionState<B: FusedOps> {
    kernels: &'static dyn Kernels<B>,
    qkv: FloatTensor<B>,
    forward: (FloatTensor<B>, FloatTensor<B>),
    spans: Arc<Spans>,
    num_heads: usize,
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
struct SumRowsBackward;

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
struct MaskedAttentionBackward;

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
struct LinearState<B: FusedOps> {
    kernels: &'static dyn Kernels<B>,
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
    before_gelu: Option<FloatTensor<B>>,
    mask: Option<Mask>,
    precision: Precision,
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
            &input,
            &weight,
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
struct LinearBackward;

impl<B: FusedOps> Backward<B, 3> for LinearBackward {
    type State = LinearState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        ops.state.backward(&parents, gradient, grads);
    }
}

#[derive(Debug)]
struct LinearAddBackward;

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
struct LayerNormBackward;

#[derive(Clone, Debug)]
struct LayerNormState<B: FusedOps> {
    kernels: &'static dyn Kernels<B>,
    input: FloatTensor<B>,
    gamma: FloatTensor<B>,
    statistics: FloatTensor<B>,
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
