//! What a device is good at.

use burn::backend::DispatchDevice;
use burn::tensor::Device;

use crate::Precision;

/// The vectors that products of 32-bit floats are computed with on this CPU, where they are known.
pub(crate) fn float_instructions() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return Some("AVX-512");
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Some("AVX2");
        }
    }
    None
}

/// Does the device compile kernels for shapes, so that it pays to give it few different ones?
pub fn compiles_for_shapes(device: &Device) -> bool {
    match inner(device.as_dispatch()) {
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchDevice::Cube(_) => true,
        #[allow(unreachable_patterns)] // with one backend there may be no other
        _ => false,
    }
}

/// Does the device work through a queue of its own, so that a pass should be enqueued as a whole?
pub fn decides_on_device(device: &Device) -> bool {
    match inner(device.as_dispatch()) {
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchDevice::Cube(_) => true,
        #[cfg(feature = "tch")]
        DispatchDevice::LibTorch(_) => true,
        #[allow(unreachable_patterns)] // with one backend there may be no other
        _ => false,
    }
}

/// Are the tokens between blocks kept in the short floats that matrix products are computed in? LibTorch's norms
/// compute in 32 bits whatever they are given, so that only the residual sums are rounded, as in its own models.
pub(crate) fn keeps_tokens_short(device: &Device) -> bool {
    match device.as_dispatch() {
        #[cfg(feature = "tch")]
        DispatchDevice::LibTorch(_) => true,
        #[allow(unreachable_patterns)] // with one backend there may be no other
        _ => false,
    }
}

/// The device without what records for a backward pass.
fn inner(device: &DispatchDevice) -> &DispatchDevice {
    match device {
        DispatchDevice::Autodiff(device) => inner(device),
        device => device,
    }
}

/// Does the device compute on this program's own threads and in its memory, and is nothing recorded for a backward pass?
/// Its kernels take as many threads as the thread pool that they run in has.
pub fn computes_here(device: &Device) -> bool {
    is_flex(device.as_dispatch())
}

fn is_flex(device: &DispatchDevice) -> bool {
    match device {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[allow(unreachable_patterns)] // with one backend there may be no other
        _ => false,
    }
}

/// Do this device's kernels of linear layers take 32-bit floats, and round them to bfloat16 on their way into the product?
pub(crate) fn rounds_factors(device: &Device) -> bool {
    is_flex(inner(device.as_dispatch())) && Precision::Bf16.instructions().is_some()
}

/// How many rows a packed matrix of `rows` rows gets on `device`. Where kernels are compiled for shapes, it is
/// filled up with rows that are nobody's, so that batches of different token counts share shapes: by
/// less than 64 rows, or an eighth.
pub(crate) fn filled_rows(rows: usize, device: &Device) -> usize {
    if compiles_for_shapes(device) {
        shared_shape(rows)
    } else {
        rows
    }
}

/// The next of the few row counts that are used there.
pub(super) fn shared_shape(rows: usize) -> usize {
    rows.next_multiple_of((rows.next_power_of_two() / 16).max(64))
}
