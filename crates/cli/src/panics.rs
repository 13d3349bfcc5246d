//! No panic reaches a user: what a backend says by panicking becomes an error.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Mutex;

use apt_rl_trainer::TrainerError;

/// Where the last panic was.
static PLACE: Mutex<String> = Mutex::new(String::new());

/// Panics are logged (`--log debug` shows them), not printed. A reader that has seen enough, as in
/// `aptvit info | head`, ends the program without a word.
pub fn watch() {
    panic::set_hook(Box::new(report));
}

fn report(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or_default();
    if message.starts_with("failed printing to stdout") {
        std::process::exit(141); // 128 + SIGPIPE
    }
    let place = panic.location().map_or(String::new(), ToString::to_string);
    let trace = std::backtrace::Backtrace::capture();
    tracing::debug!("panic at {place}: {message}\n{trace}");
    if let Ok(mut last) = PLACE.lock() {
        *last = place;
    }
}

/// Runs `command`; a panic in it becomes an error.
pub fn caught<T>(command: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|payload| {
        match TrainerError::of_panic(&*payload, String::new()) {
            TrainerError::Device { reason, .. } => {
                let place = PLACE.lock().map(|place| place.clone()).unwrap_or_default();
                Err(anyhow::anyhow!(
                    "something that should not happen did, at {place}: {reason}\nplease report it, \
                     with the command and what it needs"
                ))
            }
            memory => Err(memory.into()),
        }
    })
}
