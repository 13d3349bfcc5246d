//! Is there a driver for wgpu? The program and `cargo xtask` both ask.

use std::env;
use std::path::{Path, PathBuf};

/// macOS and Windows bring a driver; on Linux, a Vulkan driver says so in a file. (OpenGL, to which wgpu
/// would fall back, lacks what the kernels need.)
pub fn has_driver() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
        .iter()
        .any(|name| env::var_os(name).is_some());
    let home = env::var_os("HOME").unwrap_or_default();
    let folders = [
        PathBuf::from("/usr/share/vulkan/icd.d"),
        PathBuf::from("/usr/local/share/vulkan/icd.d"),
        PathBuf::from("/etc/vulkan/icd.d"),
        Path::new(&home).join(".local/share/vulkan/icd.d"),
    ];
    let is_there = |folder: &PathBuf| {
        folder
            .read_dir()
            .is_ok_and(|mut entries| entries.next().is_some())
    };
    named || folders.iter().any(is_there)
}
