//! Which device computes: what was built in, what is there, what was asked for.

mod backend;
mod choice;
#[cfg(feature = "cuda")]
mod libdevice;
#[cfg(any(feature = "cuda", feature = "tch"))]
mod nvidia;

use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;

pub use self::backend::{Backend, Selected};
pub use self::choice::{DeviceChoice, RemoteDevice, Wanted};

impl DeviceChoice {
    /// The devices of this machine and those of others, if they are built in and there. The first
    /// one is of this machine.
    pub fn select(&self) -> Result<Chosen> {
        let wanted = match self {
            Self::Auto => {
                let main = Selected::fastest()?;
                return Ok(Chosen {
                    main,
                    others: Vec::new(),
                });
            }
            Self::Of(wanted) => wanted,
        };
        let (first, others) = wanted.split_first().context("--device: name a device")?;
        let Wanted::Local(main) = first else {
            bail!(
                "--device {first}: the first device, which holds the optimiser, has to be one of \
                 this machine, as in --device {},{first}",
                names(Backend::built_in().take(1))
            );
        };
        for wanted in wanted {
            match wanted {
                Wanted::Local(selected) => selected.check()?,
                Wanted::Remote(_) if cfg!(feature = "remote") => (),
                Wanted::Remote(_) => bail!(
                    "--device {wanted}: this program was built without remote devices; {}",
                    how_to_build(REMOTE)
                ),
            }
        }
        Ok(Chosen {
            main: *main,
            others: others.to_vec(),
        })
    }
}

/// What `--device` came to.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub main: Selected,
    pub others: Vec<Wanted>,
}

impl Chosen {
    /// Opens all of them, without autodiff.
    pub fn open_all(&self) -> Result<Vec<Device>> {
        let mut devices = vec![self.main.open()];
        for other in &self.others {
            devices.push(match other {
                Wanted::Local(selected) => selected.open(),
                Wanted::Remote(remote) => remote.connect()?,
            });
        }
        Ok(devices)
    }

    /// Can Burn sum gradients between them by collective operations? wgpu devices have no way to each other.
    pub fn has_collectives(&self) -> bool {
        let same = |other: &Wanted| matches!(other, Wanted::Local(other) if other.backend == self.main.backend);
        self.main.backend == Backend::Cuda && self.others.iter().all(same)
    }
}

impl RemoteDevice {
    #[cfg(feature = "remote")]
    fn connect(&self) -> Result<Device> {
        use burn::tensor::remote::RemoteHost;

        let mut host = RemoteHost::websocket(&format!("ws://{}", self.address));
        if let Some(token) = crate::token::token() {
            host = host.with_credential(token);
        }
        let options = Device::remote_options(&host).device_index(self.index);
        options.init().with_context(|| {
            format!(
                "--device {}: cannot connect; is `aptvit lend` running there, built from the same \
                 version?",
                Wanted::Remote(self.clone())
            )
        })
    }

    #[cfg(not(feature = "remote"))]
    fn connect(&self) -> Result<Device> {
        bail!("this program was built without remote devices")
    }
}

impl Selected {
    /// The first that is there, the fastest backend first.
    fn fastest() -> Result<Self> {
        let named = std::env::var("BURN_DEVICE").ok();
        let mut backends: Vec<Backend> = Backend::built_in()
            .filter(|backend| named.as_deref().is_none_or(|name| name == backend.name()))
            .collect();
        // On NVIDIA's GPUs LibTorch is faster than CubeCL, and compiles nothing for minutes.
        let has_torch_gpu = |backend: &Backend| {
            let first = || backend.present().into_iter().next();
            *backend == Backend::Tch && first().is_some_and(|first| first.gpu)
        };
        backends.sort_by_key(|backend| !has_torch_gpu(backend));
        let mut reasons = String::new();
        for backend in backends {
            let Some(first) = backend.present().into_iter().next() else {
                if let Some(why) = backend.why_none() {
                    reasons += &format!("\n{}: {why}", backend.name());
                }
                continue;
            };
            match first.why_unusable() {
                None => return Ok(first),
                Some(why) => {
                    eprintln!("warning: {first} is not used: {why}");
                    reasons += &format!("\n{first}: {why}");
                }
            }
        }
        bail!(
            "no device is there for what is built in ({}); `aptvit info` lists both{reasons}",
            names(Backend::built_in())
        );
    }

    /// Is it built in and there?
    fn check(self) -> Result<()> {
        let backend = self.backend;
        if !backend.is_built_in() {
            bail!(
                "--device {self}: this program was built with {} only; {}",
                names(Backend::built_in()),
                how_to_build(backend.name())
            );
        }
        let present = backend.present();
        if !present.contains(&self) {
            let found = match present.as_slice() {
                [] => "none".to_string(),
                present => present
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            // With others there, the number is wrong.
            let none = !present.iter().any(|device| device.gpu == self.gpu);
            let why = backend.why_none().filter(|_| none);
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            bail!("--device {self} is not there (found: {found}){why}");
        }
        if let Some(why) = self.why_unusable() {
            bail!("--device {self} cannot be used: {why}");
        }
        Ok(())
    }

    /// Why the device, which is there, cannot compute; and what to do.
    fn why_unusable(self) -> Option<String> {
        #[cfg(feature = "cuda")]
        if self.backend == Backend::Cuda {
            let too_old = nvidia::Driver::ask().too_old();
            return too_old.or_else(libdevice::problem);
        }
        None
    }

    /// Opens it, without autodiff.
    // LibTorch's backend is deprecated; this is the last release line that has it.
    #[allow(deprecated)]
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

/// What a program that knows remote devices is built with: they come beside others.
pub const REMOTE: &str = "flex,remote";

pub fn how_to_build(feature: &str) -> String {
    format!(
        "build it with `cargo xtask train --backend {feature}`, or install it with `cargo install \
         --path crates/cli --features {feature}`"
    )
}

static CHOSEN: OnceLock<Chosen> = OnceLock::new();

/// Chooses the devices of this program. To be called once, while it has a single thread.
pub fn choose(choice: &DeviceChoice, may_be_several: bool) -> Result<()> {
    let chosen = choice.select()?;
    if !chosen.others.is_empty() && !may_be_several {
        bail!("--device: only `train` and `lend` take several devices");
    }
    // What Burn makes without being told where, as a resumed optimiser's state, has to be on the
    // same backend.
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var("BURN_DEVICE", chosen.main.backend.name()) };
    let _ = CHOSEN.set(chosen);
    Ok(())
}

/// The chosen devices.
pub fn chosen() -> Option<&'static Chosen> {
    CHOSEN.get()
}

/// The chosen device, or Burn's default.
pub fn open() -> Device {
    chosen().map_or_else(Device::default, |chosen| chosen.main.open())
}

/// Does the chosen device compute in this machine's own memory?
pub fn is_cpu() -> bool {
    let is_cpu = |main: Selected| match main.backend {
        Backend::Flex => true,
        Backend::Tch => !main.gpu,
        Backend::Cuda | Backend::Wgpu => false,
    };
    chosen().is_some_and(|chosen| is_cpu(chosen.main))
}

/// All chosen devices.
pub fn open_all() -> Result<Vec<Device>> {
    match chosen() {
        Some(chosen) => chosen.open_all(),
        None => Ok(vec![Device::default()]),
    }
}

fn names(backends: impl Iterator<Item = Backend>) -> String {
    backends.map(Backend::name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_built_in_names_the_command_that_builds_it() {
        let mut missing: Vec<(String, &str)> = Backend::ALL
            .into_iter()
            .filter(|backend| !backend.is_built_in())
            .map(|backend| (backend.name().to_string(), backend.name()))
            .collect();
        let first = Backend::built_in().flat_map(Backend::present).last();
        if let (Some(first), false) = (first, cfg!(feature = "remote")) {
            missing.push((format!("{first},remote:host:3000"), "flex,remote"));
        }
        for (text, feature) in missing {
            let choice: DeviceChoice = text.parse().unwrap();
            let message = choice.select().unwrap_err().to_string();
            let command = format!("cargo xtask train --backend {feature}");
            assert!(message.contains(&command), "{message}");
        }
    }

    #[test]
    fn the_first_device_is_one_of_this_machine() {
        let choice: DeviceChoice = "remote:host:3000".parse().unwrap();
        let message = choice.select().unwrap_err().to_string();
        assert!(message.contains("this machine"), "{message}");
    }
}
