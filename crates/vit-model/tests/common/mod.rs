//! Where tests compute that run on any device.

use burn::tensor::Device;

/// Burn's default, which `BURN_DEVICE` names; with `APT_TEST_DEVICE=tch:cuda`, LibTorch's first GPU.
pub fn device() -> Device {
    #[cfg(feature = "tch")]
    #[allow(deprecated)] // this is the last release line that has it
    if std::env::var("APT_TEST_DEVICE").is_ok_and(|name| name == "tch:cuda") {
        return Device::libtorch_cuda(0);
    }
    Device::default()
}
