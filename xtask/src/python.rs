//! The Python whose packages a build can use.

use std::env;

/// That of an active virtual environment, else the system's. LibTorch's bindings take the same one.
pub fn command() -> &'static str {
    if cfg!(windows) {
        "python.exe"
    } else if env::var_os("VIRTUAL_ENV").is_some() {
        "python"
    } else {
        "python3"
    }
}
