//! Which device computes: what was built in, what is there, what was asked for.

#[cfg(feature = "cuda")]
mod libdevice;
#[cfg(any(feature = "cuda", feature = "tch"))]
mod nvidia;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
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
    fn why_none(self) -> Option<String> {
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

/// What `--device` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest that is there.
    #[default]
    Auto,
    /// These, in this order.
    Of(Vec<Wanted>),
}

/// A device that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Of this machine.
    Local(Selected),
    /// What another process, maybe on another machine, serves.
    Remote(RemoteDevice),
}

/// One device of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    pub backend: Backend,
    /// With LibTorch: a GPU, not the CPU.
    pub gpu: bool,
    pub index: usize,
}

/// One of the devices that `aptvit serve` serves somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDevice {
    /// `HOST:PORT`
    pub address: String,
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

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(selected) => selected.fmt(f),
            Self::Remote(RemoteDevice { address, index: 0 }) => write!(f, "remote:{address}"),
            Self::Remote(RemoteDevice { address, index }) => write!(f, "remote:{address}/{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            text => text
                .split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map(Self::Of),
        }
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "expected auto, flex, wgpu, wgpu:N, tch, tch:cuda, tch:cuda:N, cuda, cuda:N or \
             remote:HOST:PORT, or several with commas"
                .to_string()
        };
        if let Some(place) = text.strip_prefix("remote:") {
            let (address, index) = place.split_once('/').unwrap_or((place, "0"));
            let port = address
                .rsplit_once(':')
                .map(|(host, port)| (host, port.parse::<u16>()));
            if !matches!(port, Some((host, Ok(_))) if !host.is_empty()) {
                return Err(wrong());
            }
            return Ok(Self::Remote(RemoteDevice {
                address: address.to_string(),
                index: index.parse().map_err(|_| wrong())?,
            }));
        }
        let (backend, gpu, index) = match text.split(':').collect::<Vec<_>>().as_slice() {
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
        Ok(Self::Local(Selected {
            backend,
            gpu,
            index: index.parse().map_err(|_| wrong())?,
        }))
    }
}

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
        if let Some(token) = crate::serve::token() {
            host = host.with_credential(token);
        }
        let options = Device::remote_options(&host).device_index(self.index);
        options.init().with_context(|| {
            format!(
                "--device {}: cannot connect; is `aptvit serve` running there, built from the same \
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
        bail!("--device: only `train` and `serve` take several devices");
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
            "remote:gpu-7:3000",
            "remote:10.0.0.2:3000/1",
            "cuda,cuda:1,remote:[::1]:3000",
        ] {
            match text.parse() {
                Ok(DeviceChoice::Of(wanted)) => {
                    let written: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                    assert_eq!(written.join(","), text);
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        for text in [
            "gpu",
            "wgpu:x",
            "tch:1",
            "cuda:0:1",
            "",
            "flex,",
            "remote:",
            "remote:host",
            "remote::3000",
            "remote:host:x",
            "remote:host:3000/x",
            "auto,flex",
        ] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

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

    #[cfg(feature = "tch")]
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

    #[test]
    fn the_first_device_is_one_of_this_machine() {
        let choice: DeviceChoice = "remote:host:3000".parse().unwrap();
        let message = choice.select().unwrap_err().to_string();
        assert!(message.contains("this machine"), "{message}");
    }
}
