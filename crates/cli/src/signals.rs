//! Ctrl-C and its kin: the first asks a training for a checkpoint, the second ends the program.

use std::io::{Error, Write};
use std::time::{Duration, Instant};

use apt_rl_trainer::StopRequest;

/// How long a step may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(30);
/// `timeout` sends its signal to the program and to its group: that is one.
const SAME: Duration = Duration::from_millis(100);

/// Numbers of signals, which are the same on all systems that have them.
const HANGUP: i32 = 1;
const INTERRUPT: i32 = 2;
const TERMINATE: i32 = 15;

/// From now on signals ask `stop`.
///
/// # Errors
///
/// Where the system does not let a program watch for signals.
#[cfg(unix)]
pub fn watch(stop: StopRequest) -> Result<(), Error> {
    let mut watched = vec![INTERRUPT, TERMINATE];
    if !is_ignored(HANGUP) {
        watched.push(HANGUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(watched)?;
    let mut listener = Listener::new(stop);
    let listen = move || {
        for signal in signals.forever() {
            listener.receive(signal, StopRequest::end_now);
        }
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(listen).map(|_| ())
}

/// From now on Ctrl-C asks `stop`.
///
/// # Errors
///
/// Where the system does not let a program watch for Ctrl-C.
#[cfg(not(unix))]
pub fn watch(stop: StopRequest) -> Result<(), Error> {
    let mut listener = Listener::new(stop);
    ctrlc::set_handler(move || {
        listener.receive(INTERRUPT, StopRequest::end_now);
    })
    .map_err(Error::other)
}

/// Was the program begun with this signal ignored, as `nohup` does? Known on Linux.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// What has come so far.
struct Listener {
    stop: StopRequest,
    first: Option<Instant>,
}

impl Listener {
    fn new(stop: StopRequest) -> Self {
        Self { stop, first: None }
    }

    /// A signal came; `end_now` ends the program with an exit code.
    fn receive<T: 'static>(&mut self, signal: i32, end_now: fn(i32) -> T) {
        let code = 128 + signal;
        match self.first {
            Some(first) if first.elapsed() < SAME => return,
            Some(_) => {
                end_now(code);
                return;
            }
            None => self.first = Some(Instant::now()),
        }
        if !self.stop.is_heeded() {
            say("stopped; there was nothing to save");
            end_now(code);
            return;
        }
        self.stop.stop();
        let mut limit = String::new();
        if signal == TERMINATE {
            limit = format!(", or in {} s", GRACE.as_secs());
            std::thread::spawn(move || {
                std::thread::sleep(GRACE);
                end_now(code);
            });
        }
        // A dashboard says so itself, and would be painted over.
        if !self.stop.is_shown() {
            say(&format!(
                "stopping after this step, with a checkpoint{limit}; once more to stop at once"
            ));
        }
    }
}

/// Says something on stderr. It never panics: this thread has to hear the next signal.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static ENDED: Cell<Option<i32>> = const { Cell::new(None) };
    }

    fn end(code: i32) {
        ENDED.set(Some(code));
    }

    #[test]
    fn without_a_training_under_way_a_signal_ends_the_program() {
        for (signal, code) in [(INTERRUPT, 130), (TERMINATE, 143)] {
            let stop = StopRequest::default();
            Listener::new(stop.clone()).receive(signal, end);
            assert_eq!(ENDED.take(), Some(code));
            assert!(!stop.is_requested());
        }
    }

    #[test]
    fn the_second_signal_ends_the_program_unless_it_is_the_first_sent_twice() {
        let mut listener = Listener::new(StopRequest::default());
        listener.first = Some(Instant::now());
        listener.receive(TERMINATE, end);
        assert_eq!(ENDED.take(), None);
        listener.first = Instant::now().checked_sub(2 * SAME);
        listener.receive(TERMINATE, end);
        assert_eq!(ENDED.take(), Some(143));
    }
}
