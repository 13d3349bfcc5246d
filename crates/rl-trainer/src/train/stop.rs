//! How a training is asked to stop, and why it stopped.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::train::Interrupter;

use crate::TrainerError;
use crate::log::screen;

/// Asks a running training to save a checkpoint and stop. Clones ask the same training.
#[derive(Clone, Debug, Default)]
pub struct StopRequest(Arc<Request>);

#[derive(Debug, Default)]
struct Request {
    asked: AtomicBool,
    heeded: AtomicBool,
}

impl StopRequest {
    /// Asks.
    pub fn stop(&self) {
        self.0.asked.store(true, Ordering::Relaxed);
    }

    /// Was it asked?
    pub fn is_requested(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Is a training under way, which saves a checkpoint when it is asked? While images are loaded, and while the trained
    /// model is measured, nothing can be lost, and nothing has to be waited for.
    pub fn is_heeded(&self) -> bool {
        self.0.heeded.load(Ordering::Relaxed)
    }

    /// Does a dashboard have the terminal? It shows what was asked; nothing else can be printed.
    pub fn is_shown(&self) -> bool {
        screen::is_taken()
    }

    /// Ends the program at once with this exit code: no checkpoint is saved, and a device at work is not waited for. The
    /// terminal is as it was.
    pub fn end_now(code: i32) -> ! {
        screen::give_back();
        // Exit handlers of a backend may wait for its device, and crash where a thread still computes.
        signal_hook::low_level::exit(code)
    }

    /// From now until the answer is dropped, a training heeds it.
    pub(crate) fn heed(&self) -> Heeded<'_> {
        self.0.heeded.store(true, Ordering::Relaxed);
        Heeded(self)
    }
}

/// A training is under way that stops when it is asked.
pub(crate) struct Heeded<'a>(&'a StopRequest);

impl Drop for Heeded<'_> {
    fn drop(&mut self) {
        self.0.0.heeded.store(false, Ordering::Relaxed);
    }
}

/// Why a training stopped before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Somebody asked for it.
    Requested,
    /// Its time was over.
    TimeLimit,
}

/// Whether a training under way has to stop, and what came of it.
pub(crate) struct Stop {
    /// Stops burn-train's loop.
    pub interrupter: Interrupter,
    request: StopRequest,
    deadline: Option<Instant>,
    pause: Mutex<Option<(Pause, PathBuf)>>,
    failure: Mutex<Option<TrainerError>>,
    failed: AtomicBool,
}

impl Stop {
    pub fn new(request: StopRequest, time_limit: Option<Duration>) -> Self {
        Self {
            interrupter: Interrupter::new(),
            request,
            deadline: time_limit.map(|limit| Instant::now() + limit),
            pause: Mutex::new(None),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
        }
    }

    /// Why the training has to stop now, if it has to.
    pub fn reason(&self) -> Option<Pause> {
        if self.request.is_requested() {
            return Some(Pause::Requested);
        }
        let late = self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        late.then_some(Pause::TimeLimit)
    }

    /// It stops with this checkpoint.
    pub fn pause_with(&self, reason: Pause, checkpoint: PathBuf) {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some((reason, checkpoint));
        self.interrupter.stop(Some("paused"));
    }

    /// Why and with which checkpoint it paused, if it did.
    pub fn paused(&self) -> Option<(Pause, PathBuf)> {
        let pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        pause.clone()
    }

    /// It stops because something went wrong; the first error is kept.
    pub fn fail(&self, error: TrainerError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.failed.store(true, Ordering::SeqCst);
        self.interrupter.stop(Some("failed"));
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// What made it fail, if something did.
    pub fn take_failure(&self) -> Option<TrainerError> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_heeded_only_while_a_training_is_under_way() {
        let request = StopRequest::default();
        assert!(!request.is_heeded());
        let training = request.heed();
        assert!(request.clone().is_heeded());
        drop(training);
        assert!(!request.is_heeded());
    }
}
