//! Memory that a thread keeps between the halves of blocks, so that its pages stay warm.

use std::cell::Cell;

use super::layout::Lines;

#[derive(Default)]
pub(super) struct Memory {
    /// The left factor of a half's first product.
    pub input: Lines,
    /// That of its second one.
    pub inner: Lines,
    /// What is yet to be quantised.
    pub rows: Vec<u16>,
    /// What each row's integers are multiplied by.
    pub scales: Vec<f32>,
}

thread_local! {
    static MEMORY: Cell<Option<Box<Memory>>> = const { Cell::new(None) };
}

/// Calls `run` with the thread's memory. Whoever comes in between, on a thread that waits for others, gets a new one.
pub(super) fn with_memory<R>(run: impl FnOnce(&mut Memory) -> R) -> R {
    let mut memory = MEMORY.take().unwrap_or_default();
    let result = run(&mut memory);
    MEMORY.set(Some(memory));
    result
}
