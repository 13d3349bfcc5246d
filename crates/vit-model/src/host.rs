//! The way between this program's memory and the device's, in one place.
//!
//! A GPU works through a queue, and its answer is there when the queue is done: whoever reads waits, and the queue is
//! empty afterwards. LibTorch waits before it copies to a GPU, too. So each crossing counts as a wait; a lint keeps
//! reducers and the model from crossing in another way.
#![allow(clippy::disallowed_methods)] // in this place alone

use std::sync::atomic::{AtomicU64, Ordering};

use burn::prelude::*;
use burn::tensor::TensorData;

static WAITS: AtomicU64 = AtomicU64::new(0);

/// How often this process' reducers and models crossed between host and device so far.
pub fn waits() -> u64 {
    WAITS.load(Ordering::Relaxed)
}

/// Counts a crossing.
pub(crate) fn wait() {
    WAITS.fetch_add(1, Ordering::Relaxed);
}

/// The values of a tensor in 32-bit floats, the last dimension's side by side.
pub fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    wait();
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec().unwrap_or_default()
}

/// The flags of a tensor, the last dimension's side by side.
pub(crate) fn read_flags<const D: usize>(tensor: Tensor<D, Bool>) -> Vec<bool> {
    wait();
    tensor.into_data().iter::<bool>().collect()
}

/// A tensor of these values, as many as the shape has.
pub fn upload<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    wait();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A tensor of these places, for selecting rows.
pub fn upload_places(places: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    wait();
    let places: Vec<i64> = places.into_iter().map(|place| place as i64).collect();
    Tensor::from_data(places.as_slice(), device)
}
