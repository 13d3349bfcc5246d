//! The CLS token reads parked tokens, at the price of its attention alone.
//!
//! A parked token has no key and no value in a later block: projecting it would cost a sixth of computing it. Instead the CLS
//! token's query goes through the key projection backwards, once an image, and is compared with the tokens themselves; what it
//! reads of them goes through the value projection once. Both are the same sums in another order. What the block's attention
//! said of the CLS token is then corrected by the difference.

use std::ops::Range;

use burn::module::Param;
use burn::nn::LayerNorm;
use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;
use burn::tensor::activation::softmax;

use crate::host::{read, upload, upload_places};
use crate::kernels;
use crate::precision::{cast, widen};
use crate::selected_rows::select_rows;
use crate::{Attention, Parked, Sequences};

/// Below this nothing is attended to.
const LEAST_WEIGHT: f32 = 1e-30;

/// What a block's attention is to a token that reads, in 32-bit floats.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    norm: LayerNorm,
    epsilon: f64,
    /// `[heads, width, hidden]`
    keys: Tensor<3>,
    /// `[1, heads, width]`
    key_bias: Tensor<3>,
    /// `[heads, hidden, width]`
    values: Tensor<3>,
    /// `[1, heads, width]`
    value_bias: Tensor<3>,
    /// `[hidden, hidden]`
    output: Tensor<2>,
}

impl Reader {
    /// Of layers that are not laid out for inference; `scale`, `[hidden]`, is what the attention's output is scaled by.
    pub fn new(
        norm: &LayerNorm,
        epsilon: f64,
        attention: &Attention,
        scale: Option<&Param<Tensor<1>>>,
    ) -> Self {
        let heads = attention.num_heads;
        let weight = widen(attention.qkv.weight.val());
        let [hidden, _] = weight.dims();
        let width = hidden / heads;
        let of = |part: usize| {
            let part = weight.clone().narrow(1, part * hidden, hidden);
            part.reshape([hidden, heads, width])
        };
        let bias = |part: usize| match &attention.qkv.bias {
            Some(bias) => {
                let bias = widen(bias.val()).narrow(0, part * hidden, hidden);
                bias.reshape([1, heads, width])
            }
            None => Tensor::zeros([1, heads, width], &weight.device()),
        };
        let output = widen(attention.output.weight.val());
        let scale = scale.map(|scale| widen(scale.val()).unsqueeze());
        Self {
            norm: norm.clone(),
            epsilon,
            keys: of(1).permute([1, 2, 0]),
            key_bias: bias(1),
            values: of(2).permute([1, 0, 2]),
            value_bias: bias(2),
            output: match scale {
                Some(scale) => output * scale,
                None => output,
            },
        }
    }

    /// What reading adds to CLS tokens, `[images, hidden]`, with the images' slots; and how much each parked token was attended
    /// to, averaged over the heads. None where no image has any.
    ///
    /// `qkv`, `[rows, 3 * hidden]`, is what the block's attention used of the other tokens.
    pub fn read(
        &self,
        parked: &Parked,
        bias: Tensor<1>,
        sequences: &Sequences,
        qkv: &Tensor<2>,
        key_mask: Option<&Tensor<1>>,
    ) -> Option<(Vec<usize>, Tensor<2>, Vec<f32>)> {
        let images = sequences.open_slots();
        let images = images.map(|(slot, image)| (slot, parked.range(image)));
        let images: Vec<_> = images.filter(|(_, range)| !range.is_empty()).collect();
        if images.is_empty() {
            return None;
        }
        let (count, [heads, width, hidden]) = (images.len(), self.keys.dims());
        let starts = sequences.starts();
        let slots: Vec<usize> = images.iter().map(|&(slot, _)| slot).collect();
        let cls: Vec<usize> = slots.iter().map(|&slot| starts[slot]).collect();
        let queries = widen(select_rows(qkv.clone().narrow(1, 0, hidden), &cls));
        let queries = queries.reshape([count, heads, width]) / (width as f64).sqrt();

        let rows = slots.iter().map(|&slot| starts[slot]..starts[slot + 1]);
        let (own_scores, values) = own(&queries, Padded::new(rows), sequences, qkv, key_mask);
        let padded = Padded::new(images.iter().map(|(_, range)| range.clone()));
        let (scores, tokens) = self.scores(queries, &padded, parked, bias, sequences);

        let [_, _, computed] = own_scores.dims();
        let before = mixed(softmax(own_scores.clone(), 2), values.clone());
        let all = softmax(Tensor::cat(vec![own_scores, scores], 2), 2);
        let others = all.clone().narrow(2, 0, computed);
        let weights = all.narrow(2, computed, padded.most);
        let read_of = weights.clone().matmul(tokens).swap_dims(0, 1);
        let read_of = read_of.matmul(self.values.clone()).swap_dims(0, 1);
        let read_of = read_of + weights.clone().sum_dim(2) * self.value_bias.clone();
        let change = mixed(others, values) + read_of - before;
        let change = change.reshape([count, hidden]).matmul(self.output.clone());

        let weights = read(weights.mean_dim(1).reshape([count * padded.most, 1]));
        let mut attention = vec![0.0; parked.attention.len()];
        for (image, (_, range)) in images.iter().enumerate() {
            let weights = &weights[image * padded.most..];
            let pairs = range.clone().zip(weights);
            pairs.for_each(|(token, &weight)| attention[token] = weight);
        }
        Some((slots, change, attention))
    }

    /// CLS's scores of parked tokens, `[images, heads, parked]`, given its scaled queries, `[images, heads, width]`; and these
    /// tokens as the block's attention takes them, `[images, parked, hidden]`.
    fn scores(
        &self,
        queries: Tensor<3>,
        padded: &Padded,
        parked: &Parked,
        bias: Tensor<1>,
        sequences: &Sequences,
    ) -> (Tensor<3>, Tensor<3>) {
        let ([_, heads, _], device) = (queries.dims(), queries.device());
        let tokens = kernels::layer_norm(&self.norm, self.epsilon, parked.tokens.clone());
        let [_, hidden] = tokens.dims();
        let tokens = tokens.select(0, padded.places(&device));
        let tokens = tokens.reshape([padded.images, padded.most, hidden]);
        let by_head = queries.clone().swap_dims(0, 1);
        let sought = by_head.matmul(self.keys.clone()).swap_dims(0, 1);
        let always = (queries * self.key_bias.clone()).sum_dim(2) + bias.reshape([1, heads, 1]);
        let weigh = |token: usize| sequences.bias_of_size(parked.sizes()[token]);
        let bias = padded.bias(weigh, &device).unsqueeze_dim::<3>(1);
        let scores = sought.matmul(tokens.clone().swap_dims(1, 2)) + always + bias;
        (scores, tokens)
    }
}

/// CLS's scores of the tokens that the block computes, `[images, heads, tokens]`, given its scaled queries, `[images, heads,
/// width]`; and their values, `[images, heads, tokens, width]`.
fn own(
    queries: &Tensor<3>,
    padded: Padded,
    sequences: &Sequences,
    qkv: &Tensor<2>,
    key_mask: Option<&Tensor<1>>,
) -> (Tensor<3>, Tensor<4>) {
    let ([count, heads, width], device) = (queries.dims(), queries.device());
    let hidden = heads * width;
    let places = padded.places(&device);
    let visible = sequences.bias();
    let seen = |row: usize| visible.as_ref().map_or(0.0, |bias| bias[row]);
    let mut bias = padded.bias(seen, &device);
    if let Some(mask) = key_mask {
        let mask = mask.clone().clamp_min(LEAST_WEIGHT).log();
        bias = bias + mask.select(0, places.clone()).reshape([count, padded.most]);
    }
    let rows = qkv.clone().narrow(1, hidden, 2 * hidden);
    let rows = widen(rows.select(0, places));
    let part = |part: usize| -> Tensor<4> {
        let rows = rows.clone().narrow(1, part * hidden, hidden);
        let rows = rows.reshape([count, padded.most, heads, width]);
        rows.swap_dims(1, 2)
    };
    let scores = part(0).matmul(queries.clone().unsqueeze_dim::<4>(3));
    let scores = scores.squeeze_dim::<3>(3) + bias.unsqueeze_dim::<3>(1);
    (scores, part(1))
}

/// `[images, heads, tokens]` times `[images, heads, tokens, width]`: `[images, heads, width]`.
fn mixed(weights: Tensor<3>, values: Tensor<4>) -> Tensor<3> {
    weights
        .unsqueeze_dim::<4>(2)
        .matmul(values)
        .squeeze_dim::<3>(2)
}

/// Rows of images that have different numbers of them, filled up to the most.
struct Padded {
    rows: Vec<Option<usize>>,
    images: usize,
    most: usize,
}

impl Padded {
    fn new(ranges: impl Iterator<Item = Range<usize>>) -> Self {
        let ranges: Vec<_> = ranges.collect();
        let most = ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let rows = ranges.iter().flat_map(|range| {
            let first = range.start;
            (0..most).map(move |place| (place < range.len()).then_some(first + place))
        });
        Self {
            images: ranges.len(),
            rows: rows.collect(),
            most,
        }
    }

    /// Where each stands; what fills up stands anywhere.
    fn places(&self, device: &Device) -> Tensor<1, Int> {
        upload_places(self.rows.iter().map(|row| row.unwrap_or(0)), device)
    }

    /// `[images, most]`; minus infinity for what fills up.
    fn bias(&self, of: impl Fn(usize) -> f32, device: &Device) -> Tensor<2> {
        let rows = self.rows.iter();
        let bias = rows.map(|row| row.map_or(f32::NEG_INFINITY, &of));
        upload(bias.collect(), [self.images, self.most], device)
    }
}

/// The CLS tokens in these slots, `change` added to each, `[slots, hidden]`.
pub(crate) fn corrected(
    tokens: Tensor<2>,
    sequences: &Sequences,
    slots: &[usize],
    change: Tensor<2>,
) -> Tensor<2> {
    let rows = slots.iter().map(|&slot| sequences.starts()[slot]);
    let rows = upload_places(rows, &tokens.device());
    let change = cast(change, tokens.dtype());
    tokens.select_assign(0, rows, change, IndexingUpdateOp::Add)
}
