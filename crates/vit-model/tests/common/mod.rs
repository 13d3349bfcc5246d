//! What tests share.
#![allow(dead_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Tests draw from the device's one generator: one after another, each gets what its seed says.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let guard = ONE_AT_A_TIME.lock();
    guard.unwrap_or_else(PoisonError::into_inner)
}
