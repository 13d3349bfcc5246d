//! Where bytes become normalised values: on the loader's threads, or on the device.

use crate::Normalization;
use crate::batch::Normalize;
use crate::transform::Table;
use burn::Tensor;
use burn::backend::DispatchDevice;
use burn::tensor::{Device, Int, IntDType, TensorData};

/// Does `device` get bytes, a quarter of what values would be, and normalises them itself? Not where it computes in
/// this machine's memory, and not where it has no bytes.
pub(crate) fn takes_bytes(device: &Device) -> bool {
    !computes_here(device) && has_bytes(device)
}

// LibTorch's backend is deprecated; this is the last release line that has it.
#[allow(deprecated)]
fn computes_here(device: &Device) -> bool {
    match device.clone().inner().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "tch")]
        DispatchDevice::LibTorch(place) => *place == burn::backend::libtorch::LibTorchDevice::Cpu,
        #[allow(unreachable_patterns)] // with one backend there may be no other
        _ => false,
    }
}

fn has_bytes(device: &Device) -> bool {
    match device.clone().inner().as_dispatch() {
        // Its backend does not say so.
        #[cfg(feature = "tch")]
        DispatchDevice::LibTorch(_) => true,
        #[allow(unreachable_patterns)] // with one backend there may be no other
        _ => device.supports_dtype(IntDType::U8),
    }
}

/// What takes values that are normalised already.
pub(crate) fn uploaded(device: &Device) -> Normalize<f32> {
    let device = device.clone();
    Box::new(move |values, shape| Tensor::from_data(TensorData::new(values, shape), &device))
}

/// What takes bytes and looks up their values on the device: the very values that the table has.
pub(crate) fn looked_up(normalization: &Normalization, device: &Device) -> Normalize<u8> {
    let table: Table<f32> = normalization.table();
    let length = table.len() * table[0].len();
    let table = Tensor::<1>::from_data(TensorData::new(table.concat(), [length]), device);
    // Where a channel's values begin, in the integers that the device uses for places.
    let starts = TensorData::new(vec![0, 256, 512], [1, 3, 1, 1]);
    let starts = Tensor::<4, Int>::from_data(starts, device);
    let integers = device.settings().int_dtype;
    let device = device.clone();
    Box::new(move |bytes, shape| {
        let bytes = TensorData::new(bytes, shape);
        let bytes = Tensor::<4, Int>::from_data(bytes, (&device, IntDType::U8.into()));
        let places = bytes.cast(integers) + starts.clone();
        let count: usize = shape.iter().product();
        table
            .clone()
            .select(0, places.reshape([count]))
            .reshape(shape)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::UNCHANGED;

    #[test]
    fn values_looked_up_on_the_device_are_those_of_the_table() {
        let device = Device::default();
        if !has_bytes(&device) {
            return;
        }
        let normalization = Normalization::IMAGENET;
        // Each byte once in each channel, of two images.
        let bytes = [UNCHANGED.concat(), UNCHANGED.concat()].concat();
        let images = looked_up(&normalization, &device)(bytes, [2, 3, 16, 16]);
        let found: Vec<f32> = images.into_data().iter::<f32>().collect();
        let table = normalization.table().concat();
        assert!(found == [table.clone(), table].concat());
    }
}
