//! NVIDIA's driver, asked directly where a backend finds none of its GPUs, or might not be served
//! by it: so that the error says why.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::ptr;

use libloading::{Library, Symbol};

#[cfg(windows)]
const DRIVER: &str = "nvcuda.dll";
#[cfg(not(windows))]
const DRIVER: &str = "libcuda.so.1";

/// Drivers of CUDA 12.8 and newer have every function that bindings for CUDA 13 call.
#[cfg(any(feature = "cuda", test))]
const FOR_CUDA_13: i32 = 12_080;
/// The CUDA for which the program was built, as `cargo xtask` sets it where there is no toolkit.
#[cfg(feature = "cuda")]
const BUILT_FOR: Option<&str> = option_env!("CUDARC_CUDA_VERSION");

/// What the driver answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// It is not installed.
    Missing,
    /// It cannot be used, for a reason by number and name.
    Refuses(c_int, String),
    /// It is there, with so many GPUs, and knows this version of CUDA (13.0 is 13000).
    Ready { gpus: c_int, version: c_int },
}

impl Driver {
    /// Asks.
    pub fn ask() -> Self {
        // SAFETY: loading NVIDIA's driver initialises it and no more.
        let Ok(library) = (unsafe { Library::new(DRIVER) }) else {
            return Self::Missing;
        };
        // SAFETY: the functions have these types in cuda.h, and the numbers outlive the calls.
        let asked = unsafe { ask(&library) };
        asked.unwrap_or_else(|_| Self::Refuses(0, "it lacks functions of CUDA".to_string()))
    }

    /// Why it gives no GPU, and what to do.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Missing => Some(format!(
                "NVIDIA's driver is not installed: {DRIVER} cannot be loaded. In a container, it comes \
                 from outside (`docker run --gpus all`)"
            )),
            Self::Refuses(code, name) => {
                let advice = match code {
                    34 => {
                        "this is the toolkit's stand-in for it: take its folder off LD_LIBRARY_PATH"
                    }
                    100 => {
                        "there is no GPU, or CUDA_VISIBLE_DEVICES hides it; `nvidia-smi` lists them"
                    }
                    802 => "the GPUs are not ready: is nvidia-fabricmanager running?",
                    803 => {
                        "its library and its kernel module are of different versions: restart the \
                         machine, or install matching ones; `nvidia-smi` shows them"
                    }
                    804 => "this GPU needs a driver as new as its CUDA libraries",
                    _ => "does `nvidia-smi` work?",
                };
                Some(format!("NVIDIA's driver refuses ({name}): {advice}"))
            }
            Self::Ready { gpus: 0, .. } => {
                Some("NVIDIA's driver knows no GPU; does `nvidia-smi` list one?".to_string())
            }
            Self::Ready { .. } => None,
        }
    }

    /// Why CubeCL cannot use it, though it has a GPU.
    #[cfg(feature = "cuda")]
    pub fn too_old(&self) -> Option<String> {
        let built_for = BUILT_FOR.and_then(|version| version.parse().ok());
        match self {
            Self::Ready { version, .. } => too_old(*version, built_for),
            _ => None,
        }
    }
}

/// The versions of CUDA that the driver knows, and for which the program was built.
#[cfg(any(feature = "cuda", test))]
fn too_old(driver: i32, built_for: Option<i32>) -> Option<String> {
    let built_for = built_for?;
    (built_for >= 13_000 && driver < FOR_CUDA_13).then(|| {
        format!(
            "NVIDIA's driver is for CUDA {}; expected {} or newer, since the program was built for CUDA \
             {}. Install a newer driver, or build with CUDARC_CUDA_VERSION={driver}",
            dotted(driver),
            dotted(FOR_CUDA_13),
            dotted(built_for)
        )
    })
}

/// 12080 is 12.8.
pub fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// # Safety
/// `library` has to be NVIDIA's driver.
unsafe fn ask(library: &Library) -> Result<Driver, libloading::Error> {
    // SAFETY: as the caller says; the types are those of cuda.h.
    unsafe {
        let init: Symbol<unsafe extern "C" fn(c_uint) -> c_int> = library.get(b"cuInit\0")?;
        let count: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int> =
            library.get(b"cuDeviceGetCount\0")?;
        let version: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int> =
            library.get(b"cuDriverGetVersion\0")?;
        let name: Symbol<unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int> =
            library.get(b"cuGetErrorName\0")?;
        let (mut gpus, mut known) = (0, 0);
        for code in [init(0), count(&mut gpus), version(&mut known)] {
            if code != 0 {
                let mut text = ptr::null();
                let named = name(code, &mut text) == 0 && !text.is_null();
                let text = named.then(|| CStr::from_ptr(text).to_string_lossy().into_owned());
                let text = text.unwrap_or_else(|| format!("error {code}"));
                return Ok(Driver::Refuses(code, text));
            }
        }
        Ok(Driver::Ready {
            gpus,
            version: known,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_do() {
        let refusal = |code, name: &str| Driver::Refuses(code, name.to_string()).problem().unwrap();
        for (code, name, advice) in [
            (34, "CUDA_ERROR_STUB_LIBRARY", "LD_LIBRARY_PATH"),
            (100, "CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"),
            (803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "matching"),
            (999, "CUDA_ERROR_UNKNOWN", "nvidia-smi"),
        ] {
            let message = refusal(code, name);
            assert!(
                message.contains(name) && message.contains(advice),
                "{message}"
            );
        }
        let missing = Driver::Missing.problem().unwrap();
        assert!(missing.contains("libcuda.so.1"), "{missing}");
        let ready = |gpus| Driver::Ready {
            gpus,
            version: 13_000,
        };
        assert!(ready(0).problem().is_some());
        assert_eq!(ready(1).problem(), None);
    }

    #[test]
    fn a_driver_older_than_the_program_is_refused_with_both_versions() {
        let message = too_old(12_040, Some(13_000)).unwrap();
        for part in ["12.4", "12.8", "13.0", "CUDARC_CUDA_VERSION=12040"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        for (driver, built_for) in [
            (12_080, Some(13_000)),
            (13_000, Some(13_000)),
            (12_040, Some(12_040)),
            (12_040, None),
        ] {
            assert_eq!(too_old(driver, built_for), None);
        }
    }
}
