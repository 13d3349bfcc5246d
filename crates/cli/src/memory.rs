//! The allocator, and what is said when there is no more memory.

use std::alloc::{GlobalAlloc, Layout};

use mimalloc::MiMalloc;

/// Every tensor is an allocation; this allocator keeps freed pages for the next one, where the
/// system's gives large ones back and has them zeroed again.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// An allocation of this size that fails is a tensor's, and nothing handles it.
const LARGE: usize = 256 << 10;

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

fn got(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() && size >= LARGE {
        let wanted = format!("{} MiB more were asked for", size >> 20);
        eprintln!(
            "error: {}",
            apt_rl_trainer::TrainerError::OutOfMemory(wanted)
        );
        std::process::exit(1);
    }
    pointer
}
