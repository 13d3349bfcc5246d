//! What `--device` says.

use std::fmt;
use std::str::FromStr;

use super::backend::{Backend, Selected};

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
    /// What another process, maybe on another machine, lends.
    Remote(RemoteDevice),
}

/// One of the devices that `aptvit lend` lends somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDevice {
    /// `HOST:PORT`
    pub address: String,
    pub index: usize,
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
}
