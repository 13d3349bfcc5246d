//! Values and rows that go to the device.

use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, DType, TensorData};

use crate::host::wait;

pub(super) fn upload<B: Backend>(
    values: TensorData,
    dtype: DType,
    device: &Device<B>,
) -> FloatTensor<B> {
    wait();
    B::float_from_data(values.convert_dtype(dtype), device)
}

pub(super) fn indices<B: Backend>(rows: &[usize], device: &Device<B>) -> IntTensor<B> {
    wait();
    let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    let count = rows.len();
    B::int_from_data(TensorData::new(rows, [count]), device)
}
