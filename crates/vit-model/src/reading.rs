//! The CLS token reads parked tokens, at the price of its attention alone.
//!
//! A parked token has no key and no value in a later block: projecting it would cost a sixth of computing it. Instead the CLS
//! token's query goes through the key projection backwards, once an image, and is compared with the tokens themselves; what it
//! reads of them goes through the value projection once. Both are the same sums in another order. What the block's attention
//! said of the CLS token is then corrected by the difference.

use std::borrow::Cow;
use std::iter;

use burn::module::Param;
use burn::nn::LayerNorm;
use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;
use burn::tensor::activation::softmax;

use crate::host::{read, upload, upload_places};
use crate::kernels::{self, ReadInputs, Reads, computes_here};
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
    num_heads: usize,
    /// Each output of the key projection, then each of the value projection: `[2 * hidden, hidden]`.
    projections: Tensor<2>,
    /// `[1, 2 * hidden]`
    biases: Tensor<2>,
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
        let weight = widen(attention.qkv.weight.val());
        let ([hidden, _], device) = (weight.dims(), weight.device());
        let part = |part: usize| weight.clone().narrow(1, part * hidden, hidden).transpose();
        let biases = match &attention.qkv.bias {
            Some(bias) => widen(bias.val()).narrow(0, hidden, 2 * hidden),
            None => Tensor::zeros([2 * hidden], &device),
        };
        let output = widen(attention.output.weight.val());
        let scale = scale.map(|scale| widen(scale.val()).unsqueeze());
        Self {
            norm: norm.clone(),
            epsilon,
            num_heads: attention.num_heads,
            projections: Tensor::cat(vec![part(1), part(2)], 0),
            biases: biases.unsqueeze(),
            output: match scale {
                Some(scale) => output * scale,
                None => output,
            },
        }
    }

    /// What reading adds to CLS tokens, `[images, hidden]`, with the images' slots; and how much each parked token was attended
    /// to, averaged over the heads. None where no image has any.
    ///
    /// `bias`, `[heads]`, is added to its scores of parked tokens. `qkv`, `[rows, 3 * hidden]`, is what the block's attention
    /// used of the other tokens.
    pub fn read(
        &self,
        parked: &Parked,
        bias: Tensor<1>,
        sequences: &Sequences,
        qkv: &Tensor<2>,
        key_mask: Option<&Tensor<1>>,
    ) -> Option<(Vec<usize>, Tensor<2>, Vec<f32>)> {
        let images = sequences.open_slots();
        let images = images.map(|(slot, image)| (slot, parked.of_image(image)));
        let images: Vec<_> = images.filter(|(_, tokens)| !tokens.is_empty()).collect();
        if images.is_empty() {
            return None;
        }
        let (slots, of_images): (Vec<usize>, Vec<&[usize]>) = images.into_iter().unzip();
        let starts = sequences.starts();
        let sizes = parked.sizes().iter();
        let reads = Reads {
            rows: slots
                .iter()
                .map(|&slot| starts[slot]..starts[slot + 1])
                .collect(),
            parked: of_images.iter().map(|tokens| tokens.to_vec()).collect(),
            bias_of_rows: sequences.bias(),
            bias_of_parked: sizes.map(|&size| sequences.bias_of_size(size)).collect(),
            num_heads: self.num_heads,
            epsilon: self.epsilon,
        };
        let bias = bias.unsqueeze();
        let (change, weights) = match self.read_here(parked, &bias, qkv, key_mask, &reads) {
            Some(read) => read,
            None => self.read_by_parts(parked, bias, qkv, key_mask, &reads),
        };
        let mut attention = vec![0.0; parked.attention.len()];
        let tokens = of_images.into_iter().flatten().zip(read(weights));
        tokens.for_each(|(&token, weight)| attention[token] = weight);
        Some((slots, change.matmul(self.output.clone()), attention))
    }

    /// By the backend's kernel: what reading changes of each image's attention output, `[images, hidden]`; and how much each
    /// parked token is attended to, `[reads, 1]`.
    fn read_here(
        &self,
        parked: &Parked,
        bias: &Tensor<2>,
        qkv: &Tensor<2>,
        key_mask: Option<&Tensor<1>>,
        reads: &Reads,
    ) -> Option<(Tensor<2>, Tensor<2>)> {
        if !computes_here(&qkv.device()) {
            return None;
        }
        let mut reads = Cow::Borrowed(reads);
        if let Some(mask) = key_mask {
            let mask = read(mask.clone()).into_iter();
            let of_rows = reads.bias_of_rows.clone().unwrap_or_default().into_iter();
            let bias = mask.zip(of_rows.chain(iter::repeat(0.0)));
            let bias = bias.map(|(mask, bias)| bias + mask.max(LEAST_WEIGHT).ln());
            reads.to_mut().bias_of_rows = Some(bias.collect());
        }
        let gamma = self.norm.gamma.val();
        let beta = match &self.norm.beta {
            Some(beta) => beta.val(),
            None => gamma.zeros_like(),
        };
        let (groups, drift) = parked.groups();
        let inputs = ReadInputs {
            qkv: &widen(qkv.clone()),
            groups,
            drift,
            norm: &widen(Tensor::stack(vec![gamma, beta], 0)),
            projections: &self.projections,
            biases: &self.biases,
            bias,
        };
        kernels::read(inputs, &reads)
    }

    /// As [`read_here`](Self::read_here), by Burn's operations, on any backend; gradients go through it.
    fn read_by_parts(
        &self,
        parked: &Parked,
        bias: Tensor<2>,
        qkv: &Tensor<2>,
        key_mask: Option<&Tensor<1>>,
        reads: &Reads,
    ) -> (Tensor<2>, Tensor<2>) {
        let (count, heads) = (reads.rows.len(), self.num_heads);
        let [_, hidden] = self.projections.dims();
        let width = hidden / heads;
        let cls: Vec<usize> = reads.rows.iter().map(|rows| rows.start).collect();
        let queries = widen(select_rows(qkv.clone().narrow(1, 0, hidden), &cls));
        let queries = queries.reshape([count, heads, width]) / (width as f64).sqrt();
        let part = |part: usize| {
            let rows = self.projections.clone().narrow(0, part * hidden, hidden);
            let bias = self.biases.clone().narrow(1, part * hidden, hidden);
            (
                rows.reshape([heads, width, hidden]),
                bias.reshape([1, heads, width]),
            )
        };
        let ((keys, key_bias), (values, value_bias)) = (part(0), part(1));

        let (own_scores, own_values) = own(&queries, reads, qkv, key_mask);
        let padded = Padded::new(reads.parked.iter().map(|tokens| tokens.iter().copied()));
        let tokens = kernels::layer_norm(&self.norm, self.epsilon, parked.tokens());
        let tokens = tokens.select(0, padded.places(&qkv.device()));
        let tokens = tokens.reshape([count, padded.most, hidden]);
        let sought = queries.clone().swap_dims(0, 1).matmul(keys);
        let scores = sought
            .swap_dims(0, 1)
            .matmul(tokens.clone().swap_dims(1, 2));
        let always = (queries * key_bias).sum_dim(2) + bias.reshape([1, heads, 1]);
        let of_size = padded.bias(|token| reads.bias_of_parked[token], &qkv.device());
        let scores = scores + always + of_size.unsqueeze_dim::<3>(1);

        let [_, _, computed] = own_scores.dims();
        let before = mixed(softmax(own_scores.clone(), 2), own_values.clone());
        let all = softmax(Tensor::cat(vec![own_scores, scores], 2), 2);
        let others = all.clone().narrow(2, 0, computed);
        let weights = all.narrow(2, computed, padded.most);
        let read_of = weights.clone().matmul(tokens).swap_dims(0, 1);
        let read_of = read_of.matmul(values.swap_dims(1, 2)).swap_dims(0, 1);
        let read_of = read_of + weights.clone().sum_dim(2) * value_bias;
        let change = mixed(others, own_values) + read_of - before;
        let weights = weights.mean_dim(1).reshape([count * padded.most, 1]);
        let weights = weights.select(0, padded.filled(&qkv.device()));
        (change.reshape([count, hidden]), weights)
    }
}

/// CLS's scores of the tokens that the block computes, `[images, heads, tokens]`, given its scaled queries, `[images, heads,
/// width]`; and their values, `[images, heads, tokens, width]`.
fn own(
    queries: &Tensor<3>,
    reads: &Reads,
    qkv: &Tensor<2>,
    key_mask: Option<&Tensor<1>>,
) -> (Tensor<3>, Tensor<4>) {
    let ([count, heads, width], device) = (queries.dims(), queries.device());
    let hidden = heads * width;
    let padded = Padded::new(reads.rows.iter().cloned());
    let places = padded.places(&device);
    let of_rows = reads.bias_of_rows.as_ref();
    let seen = |row: usize| of_rows.map_or(0.0, |bias| bias[row]);
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
    fn new<T: IntoIterator<Item = usize>>(images: impl Iterator<Item = T>) -> Self {
        let images: Vec<Vec<usize>> = images.map(|rows| rows.into_iter().collect()).collect();
        let most = images.iter().map(Vec::len).max().unwrap_or(0);
        let rows = images.iter().flat_map(|rows| {
            let rows = rows.iter().copied().map(Some);
            rows.chain(iter::repeat(None)).take(most)
        });
        Self {
            images: images.len(),
            rows: rows.collect(),
            most,
        }
    }

    /// Where there are rows, and not what fills up.
    fn filled(&self, device: &Device) -> Tensor<1, Int> {
        let places = self.rows.iter().enumerate();
        let places = places.filter_map(|(place, row)| row.map(|_| place));
        upload_places(places, device)
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
