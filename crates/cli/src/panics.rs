//! No panic reaches a user: what a backend says by panicking becomes an error.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Mutex;

use apt_rl_trainer::{StopRequest, TrainerError};

use crate::allocator::advised;

/// The last panic that is not a mere consequence of another.
static LAST: Mutex<Panic> = Mutex::new(Panic {
    place: String::new(),
    message: String::new(),
});

#[derive(Clone, Default)]
struct Panic {
    place: String,
    message: String,
}

/// Panics are logged (`--log debug` shows them), not printed. A reader that has seen enough, as in
/// `aptvit info | head`, ends the program without a word; a training saves a checkpoint first.
pub fn watch() {
    panic::set_hook(Box::new(report));
}

fn report(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or_default().to_string();
    if is_unread(&message) {
        StopRequest::end_now(141); // 128 + SIGPIPE
    }
    let place = panic.location().map_or(String::new(), ToString::to_string);
    let trace = std::backtrace::Backtrace::capture();
    tracing::debug!("panic at {place}: {message}\n{trace}");
    if let (Ok(mut last), false) = (LAST.lock(), is_consequence(&message)) {
        *last = Panic { place, message };
    }
}

/// Does this panic say that nobody reads what is printed?
fn is_unread(message: &str) -> bool {
    message.starts_with("failed printing to std")
}

/// A device works on a thread of its own. Where that panics, the caller panics, too: it sees that the
/// thread is gone, and not why.
fn is_consequence(message: &str) -> bool {
    ["RecvError", "SendError", "CallError"]
        .iter()
        .any(|mark| message.contains(mark))
}

/// Runs `command`; a panic in it becomes an error.
pub fn caught<T>(command: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let result = panic::catch_unwind(AssertUnwindSafe(command));
    let last = LAST.lock().map(|last| last.clone()).unwrap_or_default();
    match result {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            let cause = error
                .downcast_ref()
                .and_then(|error| cause(error, &last.message));
            match cause {
                Some(cause) => Err(advised(cause).into()),
                // Others keep what was said around them.
                None if matches!(error.downcast_ref(), Some(TrainerError::OutOfMemory(_))) => {
                    Err(error
                        .downcast()
                        .map_or_else(|error| error, |error| advised(error).into()))
                }
                None => Err(error),
            }
        }
        Err(payload) => {
            let error = TrainerError::of_panic(&*payload, String::new());
            match cause(&error, &last.message).unwrap_or(error) {
                TrainerError::Device { reason, .. } => Err(anyhow::anyhow!(
                    "something that should not happen did, at {}: {reason}\nplease report it, with the \
                     command and what it needs",
                    last.place
                )),
                memory => Err(advised(memory).into()),
            }
        }
    }
}

/// Of an error that only says that a device's thread is gone: what that thread said, `last`.
fn cause(error: &TrainerError, last: &(dyn std::any::Any + Send)) -> Option<TrainerError> {
    match error {
        TrainerError::Device { reason, checkpoint } if is_consequence(reason) => {
            Some(TrainerError::of_panic(last, checkpoint.clone()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_no_error() {
        assert!(is_unread(
            "failed printing to stdout: Broken pipe (os error 32)"
        ));
        assert!(is_unread(
            "failed printing to stderr: Broken pipe (os error 32)"
        ));
        assert!(!is_unread("an illegal memory access"));
    }

    #[test]
    fn a_device_whose_thread_is_gone_says_why() {
        let gone = |reason: &str| {
            let reason = reason.to_string();
            let checkpoint = "step-7".to_string();
            TrainerError::Device { reason, checkpoint }
        };
        let reason = "called `Result::unwrap()` on an `Err` value: RecvError";
        let memory = "wgpu error: Out of Memory".to_string();
        let found = cause(&gone(reason), &memory);
        assert!(matches!(found, Some(TrainerError::OutOfMemory(_))));
        let symbol = "Missing symbol cuDeviceGet".to_string();
        let message = cause(&gone(reason), &symbol).unwrap().to_string();
        assert!(
            message.contains(&symbol) && message.contains("step-7"),
            "{message}"
        );
        assert!(cause(&gone("an illegal memory access"), &memory).is_none());
    }
}
