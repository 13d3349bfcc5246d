//! The allocator, and the error message when memory runs out.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{c_int, c_long};

use apt_rl_trainer::{StopRequest, TrainerError};
use mimalloc::MiMalloc;

/// Every tensor is an allocation; this allocator keeps freed pages for the next one, where the
/// system's gives large ones back and has them zeroed again.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// An allocation of this size that fails is a tensor's, and nothing handles it.
const LARGE: usize = 256 << 10;

/// The commands that compute.
const COMMANDS: [&str; 11] = [
    "train",
    "sweep",
    "eval",
    "infer",
    "memory",
    "calibrate",
    "prune",
    "bench",
    "export",
    "report",
    "serve",
];
/// Those of them that train.
const TRAININGS: [&str; 2] = ["train", "sweep"];

/// mimalloc, which ends the program with advice where a tensor does not fit into memory.
struct Allocator;

// SAFETY: every method hands its arguments to mimalloc's, which fulfils the trait's contract.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as this method's own contract says.
        got(unsafe { MiMalloc.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as this method's own contract says.
        got(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as this method's own contract says.
        got(unsafe { MiMalloc.realloc(pointer, layout, size) }, size)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as this method's own contract says.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}

/// mimalloc's `mi_option_purge_delay`, the same number in its versions 2 and 3.
const PURGE_DELAY: c_int = 15;
/// By which its user sets it.
const PURGE_DELAY_NAME: &str = "MIMALLOC_PURGE_DELAY";
/// Milliseconds: longer than a pass over a large batch takes.
const LONG: c_long = 1000;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

/// From now on, freed pages go back to the system after a second instead of after ten milliseconds: the tensors of the next
/// pass take them as they are, and the system does not have to zero them again.
pub fn keep_freed_pages() {
    if std::env::var_os(PURGE_DELAY_NAME).is_none() {
        // SAFETY: mimalloc is linked, and the option takes any number.
        unsafe { mi_option_set(PURGE_DELAY, LONG) };
    }
}

fn got(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() && size >= LARGE {
        let wanted = format!("{} MiB more were asked for", size >> 20);
        eprintln!("error: {}", advised(TrainerError::OutOfMemory(wanted)));
        StopRequest::end_now(1);
    }
    pointer
}

/// The error with advice for what this process does: settings of a training help in a training alone.
pub fn advised(error: TrainerError) -> TrainerError {
    if trains(std::env::args()) {
        error
    } else {
        error.in_inference()
    }
}

/// Is that the command line of a training? An allocator has no other way to know.
fn trains(mut arguments: impl Iterator<Item = String>) -> bool {
    let command = arguments.find(|argument| COMMANDS.contains(&argument.as_str()));
    command.is_some_and(|command| TRAININGS.contains(&command.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_for_what_the_process_does() {
        let trains = |line: &str| trains(line.split(' ').map(String::from));
        assert!(trains("aptvit train --config a.toml"));
        assert!(trains("aptvit --device cuda sweep --start runs/a"));
        for line in [
            "aptvit infer --run train cat.jpg",
            "aptvit --device flex eval --run train",
            "aptvit memory build --data train",
            "aptvit bench train --batch 9999",
            "aptvit",
        ] {
            assert!(!trains(line), "{line}");
        }
    }
}
