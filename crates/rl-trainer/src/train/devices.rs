//! Where a training runs, and whether it can run there.

use apt_inference::check_precision;
use burn::prelude::*;
use burn::tensor::distributed::{DistributedConfig, ReduceOperation};
use burn::train::{ExecutionStrategy, MultiDeviceOptim};

use super::plan::estimated_memory;
use super::trainee::Trainee;
use crate::TrainerError;
use crate::config::ExperimentConfig;

/// The devices of a training, without autodiff. Each gets a part of every batch, and the update
/// is that of the whole batch.
#[derive(Clone, Debug)]
pub struct Devices {
    /// The first one holds the optimiser, and evaluates.
    pub devices: Vec<Device>,
    /// Burn's distributed data parallel: each device holds the optimiser, and gradients are summed
    /// by collective operations. CubeCL devices of one kind alone have those.
    pub distributed: bool,
}

impl Devices {
    /// One device.
    pub fn single(device: Device) -> Self {
        Self {
            devices: vec![device],
            distributed: false,
        }
    }

    /// The one that holds the optimiser.
    ///
    /// # Panics
    ///
    /// Where there is no device.
    pub fn main(&self) -> &Device {
        &self.devices[0]
    }

    /// Their names, as `--device` takes them; of one on another machine, its kind alone.
    pub fn names(&self) -> String {
        let names = self.devices.iter();
        let names: Vec<String> = names.map(|device| name(&format!("{device:?}"))).collect();
        names.join(",")
    }

    pub(crate) fn strategy(&self) -> ExecutionStrategy {
        let devices = self.devices.iter().map(|device| device.clone().autodiff());
        let mut devices: Vec<Device> = devices.collect();
        if self.distributed {
            // Each loss is weighed by its share of the batch already.
            let config = DistributedConfig {
                all_reduce_op: ReduceOperation::Sum,
            };
            return ExecutionStrategy::ddp(devices, config);
        }
        match devices.len() {
            1 => ExecutionStrategy::single(devices.remove(0)),
            _ => ExecutionStrategy::multi(devices, MultiDeviceOptim::OptimMainDevice),
        }
    }
}

/// Every device computes in the config's floats, and gets images of each batch.
pub(crate) fn check_devices(
    config: &ExperimentConfig,
    devices: &Devices,
) -> Result<(), TrainerError> {
    for device in &devices.devices {
        check_precision(config.train.dtype, device).map_err(TrainerError::precision)?;
    }
    let (images, parts) = (config.train.batch_size, devices.devices.len());
    if images < parts {
        return Err(TrainerError::Field {
            field: "train.batch_size".into(),
            found: images.to_string(),
            expected: format!("must be at least 1 for each of the {parts} devices"),
        });
    }
    Ok(())
}

/// What can be known not to fit into memory is refused, instead of being killed by the system.
pub(crate) fn check_memory(
    config: &ExperimentConfig,
    model: &Trainee,
    memory: Option<u64>,
) -> Result<(), TrainerError> {
    let needed = estimated_memory(config, model);
    match memory {
        Some(memory) if needed > memory => {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            Err(TrainerError::OutOfMemory(format!(
                "this training needs about {:.1} GiB, and {:.1} GiB are free",
                gib(needed),
                gib(memory)
            )))
        }
        _ => Ok(()),
    }
}

/// A device's plain name, from what it prints for debugging: Burn has no other name of it.
fn name(printed: &str) -> String {
    let has = |word: &str| printed.contains(word);
    let kind = if has("Remote") {
        return "remote".into();
    } else if has("LibTorch") {
        if has("Cuda") { "tch:cuda" } else { "tch" }
    } else if has("Flex") {
        "flex"
    } else if has("Cuda") {
        "cuda"
    } else {
        "wgpu"
    };
    let mut numbers = printed.split(|c: char| !c.is_ascii_digit());
    let index = numbers.rfind(|digits| !digits.is_empty());
    match index.unwrap_or("0") {
        "0" => kind.into(),
        index => format!("{kind}:{index}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_they_are_asked_for() {
        for (printed, expected) in [
            ("Device<Flex(Cpu)>", "flex"),
            ("Device<Autodiff(Flex(Cpu))>", "flex"),
            ("Device<LibTorch(Cpu)>", "tch"),
            ("Device<LibTorch(Cuda(0))>", "tch:cuda"),
            ("Device<LibTorch(Cuda(1))>", "tch:cuda:1"),
            ("Device<Cube(Cuda(Cuda(0)))>", "cuda"),
            ("Device<Cube(Cuda(Cuda(2)))>", "cuda:2"),
            ("Device<Cube(Wgpu(DefaultDevice))>", "wgpu"),
            ("Device<Cube(Wgpu(DiscreteGpu(1)))>", "wgpu:1"),
            ("Device<Remote(10.0.0.2:3000)>", "remote"),
        ] {
            assert_eq!(name(printed), expected, "{printed}");
        }
        let devices = Devices::single(Device::default());
        assert!(!devices.names().contains('<'), "{}", devices.names());
    }
}
