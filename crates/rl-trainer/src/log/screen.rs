//! The terminal, while a dashboard has it, and how it becomes the user's again.

use std::io::{self, IsTerminal, stderr};
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

/// Can a dashboard draw here? A terminal that knows no positions cannot show one, and a job in the background would be
/// stopped where it takes the terminal.
pub(crate) fn is_able() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term.is_empty() || term == "dumb");
    stderr().is_terminal() && !is_dumb && !is_in_background()
}

/// Has the terminal another job in its foreground? Known on Linux.
fn is_in_background() -> bool {
    let status = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    is_of_a_background_job(&status)
}

/// From the text of `/proc/PID/stat`: behind the program's name in brackets stand its state, parent, group, session,
/// terminal, and the group in the terminal's foreground.
fn is_of_a_background_job(status: &str) -> bool {
    let Some((_, behind)) = status.rsplit_once(')') else {
        return false;
    };
    let fields: Vec<i64> = behind
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    match fields[..] {
        [_, group, _, terminal, foreground, ..] => {
            terminal != 0 && foreground > 0 && foreground != group
        }
        _ => false,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_in_the_background_is_told_by_the_terminals_foreground() {
        assert!(!is_of_a_background_job(
            "7 (apt) vit) S 1 7 5 34816 7 4194304"
        ));
        assert!(is_of_a_background_job("7 (aptvit) S 1 7 5 34816 5 4194304"));
        // Without a terminal.
        assert!(!is_of_a_background_job("7 (aptvit) S 1 7 5 0 -1 4194304"));
        assert!(!is_of_a_background_job(""));
    }
}
