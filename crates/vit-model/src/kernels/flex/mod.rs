//! Kernels for Flex, Burn's CPU backend: matrix products by `gemm` (or, for inference, with
//! prepacked weights), everything around them vectorised for the machine it runs on and in parallel (`rayon`).
//!
//! Results do not depend on the number of threads: work is cut by shape alone, and what is
//! summed is summed in one order.

mod attention;
mod buffer;
mod dropout;
mod linear;
mod math;
mod matrix;
mod norm;
mod patches;
mod prepacked;
mod reading;
mod rows;

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::backend::flex::{FlexDevice, FlexTensor};
use burn::backend::ops::FloatTensorOps;
use burn::backend::{DType, Flex, FloatDType};
use burn::tensor::{Distribution, Shape, Tensor};

use super::own::{Kernels, Mask, Then};
use super::{FusedOps, RowSums, Spans};
use crate::Precision;
use crate::precision::cast;
pub(super) use attention::weighed;
#[cfg(target_arch = "x86_64")]
pub(super) use math::vectorised;
pub(super) use matrix::Matrix;
pub(super) use reading::read;

impl FusedOps for Flex {
    const KERNELS: Option<&'static dyn Kernels<Self>> = Some(&FlexKernels);
}

#[derive(Debug)]
struct FlexKernels;

impl Kernels<Flex> for FlexKernels {
    fn mask(&self, probability: f64) -> Mask {
        let shape = Shape::from([4]);
        let uniform = Distribution::Uniform(0.0, 65536.0);
        let random = Flex::float_random(shape, uniform, &FlexDevice, FloatDType::F32);
        let bits = |index: usize| random.storage::<f32>()[index] as u32;
        Mask {
            seed: [bits(0) << 16 | bits(1), bits(2) << 16 | bits(3)],
            probability,
        }
    }

    fn attention(
        &self,
        qkv: &FlexTensor,
        spans: &Spans,
        num_heads: usize,
    ) -> (FlexTensor, FlexTensor) {
        attention::forward(Matrix::new(&qkv.to_contiguous()), spans, num_heads)
    }

    fn attention_backward(
        &self,
        qkv: &FlexTensor,
        (output, log_sums): &(FlexTensor, FlexTensor),
        gradient: &FlexTensor,
        spans: &Spans,
        num_heads: usize,
    ) -> FlexTensor {
        let (qkv, gradient) = (qkv.to_contiguous(), gradient.to_contiguous());
        let forward = (Matrix::new(output), Matrix::new(log_sums));
        let (qkv, gradient) = (Matrix::new(&qkv), Matrix::new(&gradient));
        attention::backward(qkv, forward, gradient, spans, num_heads)
    }

    fn masked_attention(
        &self,
        qkv: &FlexTensor,
        key_mask: &FlexTensor,
        spans: &Spans,
        num_heads: usize,
    ) -> (FlexTensor, FlexTensor) {
        let spans = weighed(spans, &vector(key_mask));
        self.attention(qkv, &spans, num_heads)
    }

    fn masked_attention_backward(
        &self,
        [qkv, key_mask]: [&FlexTensor; 2],
        forward: &(FlexTensor, FlexTensor),
        gradient: &FlexTensor,
        spans: &Spans,
        num_heads: usize,
        [of_qkv, of_mask]: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let key_mask = vector(key_mask);
        if !of_mask {
            let spans = weighed(spans, &key_mask);
            let result =
                of_qkv.then(|| self.attention_backward(qkv, forward, gradient, &spans, num_heads));
            return [result, None];
        }
        let (qkv, gradient) = (qkv.to_contiguous(), gradient.to_contiguous());
        let forward = (Matrix::new(&forward.0), Matrix::new(&forward.1));
        let (qkv, gradient) = (Matrix::new(&qkv), Matrix::new(&gradient));
        let (of_qkv, of_mask) =
            attention::masked_backward(qkv, &key_mask, forward, gradient, spans, num_heads, of_qkv);
        [of_qkv, Some(of_mask)]
    }

    fn linear(
        &self,
        input: &FlexTensor,
        weight: &FlexTensor,
        bias: &FlexTensor,
        then: Then<&FlexTensor>,
        mask: Option<Mask>,
        precision: Precision,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let other = match then {
            Then::Add(other) => Some(other.to_contiguous()),
            _ => None,
        };
        let then = match (then, &other) {
            (Then::Gelu { keep }, _) => Then::Gelu { keep },
            (_, Some(other)) => Then::Add(Matrix::new(other)),
            _ => Then::End,
        };
        let input = match input.layout().strides() {
            [_, 1] => Cow::Borrowed(input),
            _ => Cow::Owned(input.to_contiguous()),
        };
        let (input, weight) = (Matrix::new(&input), Matrix::new(weight));
        linear::forward(input, weight, &vector(bias), then, mask, precision)
    }

    fn prepack(&self, weight: &FlexTensor) -> FlexTensor {
        prepacked::prepack(Matrix::new(weight)).unwrap_or_else(|| weight.clone())
    }

    fn linear_backward(
        &self,
        [input, weight]: [&FlexTensor; 2],
        before_gelu: Option<&FlexTensor>,
        mask: Option<Mask>,
        gradient: FlexTensor,
        wanted: [bool; 3],
        precision: Precision,
    ) -> [Option<FlexTensor>; 3] {
        let mut contiguous = gradient.to_contiguous();
        drop(gradient);
        if before_gelu.is_some() || mask.is_some() {
            let before = before_gelu.map(|before| before.storage());
            linear::activation_backward(contiguous.storage_mut(), before, mask);
        }
        let (input, weight) = (Matrix::new(input), Matrix::new(weight));
        linear::backward(input, weight, Matrix::new(&contiguous), wanted, precision)
    }

    fn patches(&self, features: &FlexTensor, patch: usize) -> FlexTensor {
        patches::cut(&features.to_contiguous(), patch)
    }

    fn assemble(&self, patches: &FlexTensor, table: &FlexTensor, prefix: usize) -> FlexTensor {
        let (patches, table) = (patches.to_contiguous(), table.to_contiguous());
        patches::assemble(Matrix::new(&patches), Matrix::new(&table), prefix)
    }

    fn mean_keys(&self, qkv: &FlexTensor, num_heads: usize) -> FlexTensor {
        rows::mean_keys(Matrix::new(&qkv.to_contiguous()), num_heads)
    }

    fn cls_scores(&self, qkv: &FlexTensor, cls_rows: &[usize], num_heads: usize) -> FlexTensor {
        rows::cls_scores(Matrix::new(&qkv.to_contiguous()), cls_rows, num_heads)
    }

    fn sum_rows(&self, input: &FlexTensor, sums: &RowSums) -> FlexTensor {
        rows::sums(Matrix::new(&input.to_contiguous()), sums)
    }

    fn layer_norm(
        &self,
        input: &FlexTensor,
        gamma: &FlexTensor,
        beta: &FlexTensor,
        epsilon: f64,
    ) -> (FlexTensor, FlexTensor) {
        let input = input.to_contiguous();
        norm::forward(
            Matrix::new(&input),
            &vector(gamma),
            &vector(beta),
            epsilon as f32,
        )
    }

    fn layer_norm_backward(
        &self,
        input: &FlexTensor,
        gamma: &FlexTensor,
        statistics: &FlexTensor,
        gradient: &FlexTensor,
        [_, of_gamma, of_beta]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let (input, gradient) = (input.to_contiguous(), gradient.to_contiguous());
        let (input, gradient) = (Matrix::new(&input), Matrix::new(&gradient));
        let learns = of_gamma || of_beta;
        let statistics = Matrix::new(statistics);
        norm::backward(input, &vector(gamma), statistics, gradient, learns)
    }
}

/// The tensor's 32-bit floats, side by side. None where it is not Flex's.
pub(super) fn floats<const D: usize>(tensor: Tensor<D>) -> Option<FlexTensor> {
    let tensor = cast(tensor, DType::F32).try_into_primitive::<Flex>().ok()?;
    Some(tensor.to_contiguous())
}

/// The values of a tensor of one dimension.
fn vector(tensor: &FlexTensor) -> Cow<'_, [f32]> {
    match tensor.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(tensor.to_contiguous().storage().to_vec()),
    }
}

/// About how many floating-point operations are worth waking another thread for.
const PARALLEL_WORK: usize = 4_000_000;

/// Runs `task` for each of `0..tasks`, on this thread and, if `work` (in floating-point
/// operations) is worth it, on those of the pool.
///
/// Tasks are handed out one after another: start with the largest.
pub(super) fn parallel(tasks: usize, work: usize, task: impl Fn(usize) + Sync) {
    let threads = rayon::current_num_threads().min(tasks);
    if threads <= 1 || work < PARALLEL_WORK {
        return (0..tasks).for_each(task);
    }
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                index if index < tasks => task(index),
                _ => break,
            }
        }
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| run());
        }
        run();
    });
}
