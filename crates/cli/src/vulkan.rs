//! What wgpu needs on Linux: Vulkan's loader and a driver. The program and `cargo xtask` both ask.

use std::env;
use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::{Library, Symbol};

/// The loader, by the name under which wgpu loads it.
pub const LOADER: &str = "libvulkan.so.1";
/// Name files in which drivers describe themselves, instead of the usual folders.
const NAMED: [&str; 2] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];

/// Why wgpu can find no device, and what to do. None where a driver works, and on macOS and Windows,
/// which bring one. (OpenGL, to which wgpu would fall back, lacks what the kernels need.)
pub fn problem() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let named = NAMED
        .iter()
        .find_map(|name| Some((*name, env::var_os(name)?)));
    let named = named.map(|(name, files)| (name, env::split_paths(&files).collect()));
    missing(named, &folders(), devices)
}

/// `named` is the variable that names drivers' files, and the files.
fn missing(
    named: Option<(&str, Vec<PathBuf>)>,
    folders: &[PathBuf],
    devices: impl FnOnce() -> Option<u32>,
) -> Option<String> {
    if let Some((name, files)) = named {
        if !files.iter().any(|file| file.exists()) {
            let files = env::join_paths(&files).unwrap_or_default();
            return Some(format!(
                "{name}={}: there is no such file; expected the JSON file of a Vulkan driver",
                files.display()
            ));
        }
    } else if !folders.iter().any(|folder| has_file(folder)) {
        return Some(
            "no Vulkan driver is installed: install that of your GPU, or Mesa's, which has one for the \
             CPU, too (`apt-get install mesa-vulkan-drivers`); VK_DRIVER_FILES names the JSON file of one \
             that lies elsewhere"
                .to_string(),
        );
    }
    match devices() {
        None => Some(format!(
            "a Vulkan driver is installed, but the loader {LOADER} cannot be loaded: install it \
             (`apt-get install libvulkan1`), or set LD_LIBRARY_PATH to its folder"
        )),
        Some(0) => Some(
            "a Vulkan driver is installed, but it gives no device; VK_LOADER_DEBUG=all shows why. In a \
             container, NVIDIA's needs NVIDIA_DRIVER_CAPABILITIES=all"
                .to_string(),
        ),
        Some(_) => None,
    }
}

/// How many devices the drivers give; None without the loader.
fn devices() -> Option<u32> {
    // SAFETY: the loader's library initialises itself alone.
    let loader = unsafe { Library::new(LOADER) }.ok()?;
    // SAFETY: it is Vulkan's loader, and its instance ends before it does.
    Some(unsafe { count(&loader) }.unwrap_or(0))
}

/// `VkInstanceCreateInfo`, of which only the type has to be said.
#[repr(C)]
struct InstanceInfo {
    structure: u32,
    next: *const c_void,
    flags: u32,
    application: *const c_void,
    layer_count: u32,
    layers: *const *const c_char,
    extension_count: u32,
    extensions: *const *const c_char,
}

type Instance = *mut c_void;

/// # Safety
/// `loader` has to be Vulkan's loader.
unsafe fn count(loader: &Library) -> Result<u32, libloading::Error> {
    let info = InstanceInfo {
        structure: 1,
        next: ptr::null(),
        flags: 0,
        application: ptr::null(),
        layer_count: 0,
        layers: ptr::null(),
        extension_count: 0,
        extensions: ptr::null(),
    };
    let (mut instance, mut count): (Instance, u32) = (ptr::null_mut(), 0);
    // SAFETY: the functions have these types in vulkan.h, and what is pointed to outlives the calls.
    unsafe {
        let create: Symbol<
            unsafe extern "C" fn(*const InstanceInfo, *const c_void, *mut Instance) -> c_int,
        > = loader.get(b"vkCreateInstance\0")?;
        let enumerate: Symbol<unsafe extern "C" fn(Instance, *mut u32, *mut c_void) -> c_int> =
            loader.get(b"vkEnumeratePhysicalDevices\0")?;
        let destroy: Symbol<unsafe extern "C" fn(Instance, *const c_void)> =
            loader.get(b"vkDestroyInstance\0")?;
        if create(&info, ptr::null(), &mut instance) == 0 {
            enumerate(instance, &mut count, ptr::null_mut());
            destroy(instance, ptr::null());
        }
    }
    Ok(count)
}

/// Where drivers describe themselves, as the loader looks for them.
fn folders() -> Vec<PathBuf> {
    let list = |name: &str, usual: &str| {
        let folders = env::var_os(name).filter(|folders| !folders.is_empty());
        env::split_paths(&folders.unwrap_or_else(|| usual.into())).collect::<Vec<_>>()
    };
    let own = |name: &str, usual: &str| {
        let home = || Some(PathBuf::from(env::var_os("HOME")?).join(usual));
        env::var_os(name).map(PathBuf::from).or_else(home)
    };
    let mut folders = list("XDG_DATA_DIRS", "/usr/local/share:/usr/share");
    folders.extend(list("XDG_CONFIG_DIRS", "/etc/xdg"));
    folders.extend(["/etc", "/usr/local/etc"].map(PathBuf::from));
    folders.extend(own("XDG_DATA_HOME", ".local/share"));
    folders.extend(own("XDG_CONFIG_HOME", ".config"));
    let drivers = |folder: PathBuf| folder.join("vulkan/icd.d");
    folders.into_iter().map(drivers).collect()
}

fn has_file(folder: &Path) -> bool {
    folder
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let there = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
        let not_there = there.join("no-such-folder");
        let check = |folder: &PathBuf, devices| {
            missing(None, std::slice::from_ref(folder), || devices).unwrap_or_default()
        };
        let no_driver = check(&not_there, Some(1));
        assert!(no_driver.contains("no Vulkan driver is installed"));
        assert!(no_driver.contains("mesa-vulkan-drivers"));
        let no_loader = check(&there, None);
        assert!(no_loader.contains(LOADER) && no_loader.contains("libvulkan1"));
        let no_device = check(&there, Some(0));
        assert!(no_device.contains("gives no device"), "{no_device}");
        assert_eq!(check(&there, Some(1)), "");
    }

    #[test]
    fn a_named_driver_counts_and_one_that_is_not_there_is_named() {
        let there = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let named = |file: PathBuf| missing(Some((NAMED[0], vec![file])), &[], || Some(1));
        assert_eq!(named(there.clone()), None);
        let message = named(there.join("nvidia.json")).unwrap();
        assert!(message.contains("VK_DRIVER_FILES="), "{message}");
        assert!(message.contains("nvidia.json"), "{message}");
    }
}
