//! Flex's tensors as values, and back.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{Bytes, DType, Flex};
use burn::prelude::*;
use burn::tensor::{Shape, bf16};

use super::keys;

/// A tensor of these values.
pub(super) fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    from(Bytes::from_elems(values), shape, DType::F32)
}

/// A tensor of these bfloat16.
pub(super) fn short_tensor(values: Vec<bf16>, shape: [usize; 2]) -> Tensor<2> {
    from(Bytes::from_elems(values), shape, DType::BF16)
}

fn from(bytes: Bytes, shape: [usize; 2], dtype: DType) -> Tensor<2> {
    let layout = Layout::contiguous(Shape::from(shape));
    Tensor::from_primitive::<Flex>(FlexTensor::new(bytes, layout, dtype))
}

/// See [`mean_keys`](crate::kernels::mean_keys). None where the tensor is not of bfloat16 on Flex.
pub(crate) fn mean_keys(qkv: &Tensor<2>, num_heads: usize) -> Option<Tensor<2>> {
    if qkv.dtype() != DType::BF16 {
        return None;
    }
    let qkv = qkv.clone().try_into_primitive::<Flex>().ok()?;
    let qkv = qkv.to_contiguous();
    let [rows, columns] = qkv.layout().shape().dims();
    let means = keys::means(&qkv.storage::<bf16>()[..rows * columns], columns, num_heads);
    Some(tensor(means, [rows, columns / 3 / num_heads]))
}
