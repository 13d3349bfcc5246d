//! The terminal, while a dashboard has it, and how it becomes the user's again.

use std::io::{self, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

/// Has a dashboard the terminal?
static TAKEN: Mutex<bool> = Mutex::new(false);

/// A terminal that reads nothing, as after Ctrl-S, holds up a dashboard, but not the end of the program.
const TRIES: u32 = 50;

/// Takes the terminal: another screen, and keys that arrive as such.
pub(crate) fn take() -> io::Result<()> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    enable_raw_mode()?;
    *taken = true;
    execute!(stderr(), EnterAlternateScreen).inspect_err(|_| restore(&mut taken))
}

/// Gives it back, if a dashboard has it. What is printed from now on is seen.
pub(crate) fn give_back() {
    for _ in 0..TRIES {
        match TAKEN.try_lock() {
            Ok(mut taken) => return restore(&mut taken),
            Err(TryLockError::Poisoned(taken)) => return restore(&mut taken.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    let _ = disable_raw_mode();
}

fn restore(taken: &mut MutexGuard<'_, bool>) {
    if **taken {
        let _ = execute!(stderr(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        **taken = false;
    }
}

/// Has a dashboard the terminal now?
pub(crate) fn is_taken() -> bool {
    match TAKEN.try_lock() {
        Ok(taken) => *taken,
        // A dashboard draws at this moment.
        Err(_) => true,
    }
}

/// Draws, unless the terminal was given back; is the terminal still the dashboard's?
pub(crate) fn draw(draw: impl FnOnce() -> io::Result<()>) -> bool {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    *taken && draw().is_ok()
}
