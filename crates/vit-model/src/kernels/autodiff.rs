//! The kernels in Burn's gradient graph.
//! Where the inner backend has no kernels, Burn differentiates the composed operations.

mod backward;

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::backend::tensor::{Device, FloatTensor};
use burn::backend::{Autodiff, TensorMetadata};

use super::fused_ops::kernels_for;
use super::own::Then;
use super::{FusedOps, RowSums, Spans, composed};
use crate::Precision;
use backward::{
    AttentionBackward, AttentionState, LayerNormBackward, LayerNormState, LinearAddBackward,
    LinearBackward, LinearState, MaskedAttentionBackward, SumRowsBackward,
};

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
