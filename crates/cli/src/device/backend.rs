//! The backends that are built in, and their devices on this machine.

use std::fmt;

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "tch"))]
use burn::tensor::Device;

#[cfg(any(feature = "cuda", feature = "tch"))]
use super::nvidia;

/// A backend by its cargo feature's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Cuda,
    Wgpu,
    Tch,
    Flex,
}

impl Backend {
    /// Every backend, the fastest first.
    pub const ALL: [Self; 4] = [Self::Cuda, Self::Tch, Self::Wgpu, Self::Flex];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::Tch => "tch",
            Self::Flex => "flex",
        }
    }

    pub fn is_built_in(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Tch => cfg!(feature = "tch"),
            Self::Flex => cfg!(feature = "flex"),
        }
    }

    pub fn built_in() -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(|backend| backend.is_built_in())
    }

    /// Its devices that are present, as `--device` takes them.
    pub fn present(self) -> Vec<Selected> {
        let numbered = |count: usize| (0..count).map(move |index| (false, index));
        let found: Vec<(bool, usize)> = match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => numbered(count(burn::tensor::DeviceType::Cuda)).collect(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu if crate::vulkan::problem().is_some() => Vec::new(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => numbered(count(burn::tensor::DeviceType::Wgpu)).collect(),
            #[cfg(feature = "tch")]
            Self::Tch => {
                // Burn lists its GPUs alone.
                let gpus = count(burn::tensor::DeviceType::LibTorch);
                let gpus = (0..gpus).map(|index| (true, index));
                gpus.chain([(false, 0)]).collect()
            }
            backend if backend.is_built_in() => numbered(1).collect(),
            _ => Vec::new(),
        };
        let selected = |(gpu, index)| Selected {
            backend: self,
            gpu,
            index,
        };
        found.into_iter().map(selected).collect()
    }

    /// Why it finds no device or, for LibTorch, no GPU; and what to do.
    pub fn why_none(self) -> Option<String> {
        #[cfg(feature = "cuda")]
        if self == Self::Cuda {
            let driver = nvidia::Driver::ask();
            return driver.problem().or_else(|| driver.too_old());
        }
        #[cfg(feature = "wgpu")]
        if self == Self::Wgpu {
            return crate::vulkan::problem();
        }
        #[cfg(feature = "tch")]
        if self == Self::Tch {
            return Some(why_no_gpu_for_libtorch(&nvidia::Driver::ask(), has_cuda()));
        }
        None
    }
}

/// Is LibTorch's part for CUDA in this program?
#[cfg(feature = "tch")]
fn has_cuda() -> bool {
    // Elsewhere than on Linux, its absence is not seen.
    let loaded = std::fs::read_to_string("/proc/self/maps");
    loaded.map_or(true, |files| files.contains("libtorch_cuda"))
}

#[cfg(feature = "tch")]
fn why_no_gpu_for_libtorch(driver: &nvidia::Driver, has_cuda: bool) -> String {
    if !has_cuda {
        return "this LibTorch computes on the CPU alone: install torch with CUDA, and build again"
            .to_string();
    }
    let driver_is_fine = match driver {
        nvidia::Driver::Ready { version, .. } => format!(
            "NVIDIA's driver has a GPU and knows CUDA {}, but LibTorch does not take it: it may be made \
             for a newer CUDA, which a newer driver knows; torch.cuda.is_available() in Python says more",
            nvidia::dotted(*version)
        ),
        _ => String::new(),
    };
    driver.problem().unwrap_or(driver_is_fine)
}

/// How many devices a backend finds. One that finds no driver panics.
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "tch"))]
fn count(kind: burn::tensor::DeviceType) -> usize {
    use std::panic::AssertUnwindSafe;

    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let found = std::panic::catch_unwind(AssertUnwindSafe(|| {
        Device::enumerate(kind).into_vec().len()
    }));
    std::panic::set_hook(report);
    found.unwrap_or(0)
}

/// One device of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    pub backend: Backend,
    /// With LibTorch: a GPU, not the CPU.
    pub gpu: bool,
    pub index: usize,
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = match self.index {
            0 => String::new(),
            index => format!(":{index}"),
        };
        let gpu = if self.gpu { ":cuda" } else { "" };
        write!(f, "{}{gpu}{index}", self.backend.name())
    }
}

#[cfg(all(test, feature = "tch"))]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_libtorch_does_not_take_is_explained() {
        use nvidia::Driver;

        let version = 12_040;
        let ready = Driver::Ready { gpus: 1, version };
        let cpu_only = why_no_gpu_for_libtorch(&ready, false);
        assert!(cpu_only.contains("install torch with CUDA"), "{cpu_only}");
        let no_driver = why_no_gpu_for_libtorch(&Driver::Missing, true);
        assert!(no_driver.contains("driver is not installed"), "{no_driver}");
        let too_old = why_no_gpu_for_libtorch(&ready, true);
        assert!(too_old.contains("CUDA 12.4"), "{too_old}");
    }
}
