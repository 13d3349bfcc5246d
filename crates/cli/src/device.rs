//! Which device computes: what was built in, what is there, what was asked for.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use anyhow::{Result, bail};
use burn::tensor::Device;

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
    const ALL: [Self; 4] = [Self::Cuda, Self::Tch, Self::Wgpu, Self::Flex];

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
            Self::Wgpu => numbered(count(burn::tensor::DeviceType::Wgpu)).collect(),
            #[cfg(feature = "tch")]
            Self::Tch => {
                // The CPU is one of them.
                let gpus = count(burn::tensor::DeviceType::LibTorch).saturating_sub(1);
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
}

/// How many devices a backend finds. One that finds no driver panics.
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "tch"))]
fn count(kind: burn::tensor::DeviceType) -> usize {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let found = std::panic::catch_unwind(|| Device::enumerate(kind).into_vec().len());
    std::panic::set_hook(report);
    found.unwrap_or(0)
}

/// What `--device` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest that is there.
    #[default]
    Auto,
    /// This one.
    Of(Selected),
}

/// One device.
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

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "expected auto, flex, wgpu, wgpu:N, tch, tch:cuda, tch:cuda:N, cuda or cuda:N"
                .to_string()
        };
        let (backend, gpu, index) = match text.split(':').collect::<Vec<_>>().as_slice() {
            ["auto"] => return Ok(Self::Auto),
            ["flex"] => (Backend::Flex, false, "0"),
            ["wgpu"] => (Backend::Wgpu, false, "0"),
            ["wgpu", index] => (Backend::Wgpu, false, *index),
            ["tch"] => (Backend::Tch, false, "0"),
            ["tch", "cuda"] => (Backend::Tch, true, "0"),
            ["tch", "cuda", index] => (Backend::Tch, true, *index),
            ["cuda"] => (Backend::Cuda, false, "0"),
            ["cuda", index] => (Backend::Cuda, false, *index),
            _ => return Err(wrong()),
        };
        Ok(Self::Of(Selected {
            backend,
            gpu,
            index: index.parse().map_err(|_| wrong())?,
        }))
    }
}

impl DeviceChoice {
    /// The device, if it is built in and there.
    pub fn select(self) -> Result<Selected> {
        let selected = match self {
            Self::Auto => {
                let named = std::env::var("BURN_DEVICE").ok();
                let mut backends = Backend::built_in()
                    .filter(|backend| named.as_deref().is_none_or(|name| name == backend.name()));
                let first = backends.find_map(|backend| backend.present().into_iter().next());
                match first {
                    Some(selected) => return Ok(selected),
                    None => bail!(
                        "no device is there for what is built in ({}); `aptvit info` lists both",
                        names(Backend::built_in())
                    ),
                }
            }
            Self::Of(selected) => selected,
        };
        let backend = selected.backend;
        if !backend.is_built_in() {
            bail!(
                "--device {selected}: this program was built with {} only; build it with `cargo \
                 xtask train --backend {name}`, or install it with `cargo install --path \
                 crates/cli --features {name}`",
                names(Backend::built_in()),
                name = backend.name()
            );
        }
        let present = backend.present();
        if !present.contains(&selected) {
            let found = match present.as_slice() {
                [] => "none".to_string(),
                present => present
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            bail!(
                "--device {selected} is not there; found: {found}.{}",
                match backend {
                    Backend::Wgpu =>
                        " It needs a Vulkan, Metal or DX12 driver; on Linux, mesa-vulkan-drivers \
                         has one for the CPU",
                    Backend::Cuda | Backend::Tch => " A GPU needs NVIDIA's driver",
                    Backend::Flex => "",
                }
            );
        }
        Ok(selected)
    }
}

impl Selected {
    /// Opens it, without autodiff.
    pub fn open(self) -> Device {
        match self.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda => Device::cuda(self.index),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu if self.index == 0 => {
                Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)
            }
            #[cfg(feature = "wgpu")]
            Backend::Wgpu => {
                let devices = Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec();
                devices.into_iter().nth(self.index).unwrap_or_default()
            }
            #[cfg(feature = "tch")]
            Backend::Tch if self.gpu => Device::libtorch_cuda(self.index),
            #[cfg(feature = "tch")]
            Backend::Tch => Device::libtorch(),
            #[cfg(feature = "flex")]
            Backend::Flex => Device::flex(),
            // Not built in, which `select` refuses.
            #[allow(unreachable_patterns)]
            _ => Device::default(),
        }
    }
}

static CHOSEN: OnceLock<Selected> = OnceLock::new();

/// Chooses the device of this program. To be called once, while it has a single thread.
pub fn choose(choice: DeviceChoice) -> Result<()> {
    let selected = choice.select()?;
    // What Burn makes without being told where, as a resumed optimiser's state, has to be on the
    // same backend.
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var("BURN_DEVICE", selected.backend.name()) };
    let _ = CHOSEN.set(selected);
    Ok(())
}

/// The chosen device.
pub fn selected() -> Option<Selected> {
    CHOSEN.get().copied()
}

/// The chosen device, or Burn's default.
pub fn open() -> Device {
    selected().map_or_else(Device::default, Selected::open)
}

fn names(backends: impl Iterator<Item = Backend>) -> String {
    backends.map(Backend::name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_written_as_they_are_read() {
        for text in [
            "flex",
            "wgpu",
            "wgpu:2",
            "tch",
            "tch:cuda",
            "tch:cuda:1",
            "cuda",
            "cuda:3",
        ] {
            match text.parse() {
                Ok(DeviceChoice::Of(selected)) => assert_eq!(selected.to_string(), text),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        for text in ["gpu", "wgpu:x", "tch:1", "cuda:0:1", ""] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_built_in_names_the_command_that_builds_it() {
        for backend in Backend::ALL
            .into_iter()
            .filter(|backend| !backend.is_built_in())
        {
            let choice: DeviceChoice = backend.name().parse().unwrap();
            let message = choice.select().unwrap_err().to_string();
            let command = format!("cargo xtask train --backend {}", backend.name());
            assert!(message.contains(&command), "{message}");
        }
    }
}
