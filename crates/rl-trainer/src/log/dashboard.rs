//! A training on the whole terminal, and the keys that stop it.

use std::io::{self, stderr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::train::LearnerSummary;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::dashboard_view::{Dialog, View};
use super::screen;
use crate::train::StopRequest;

/// How often it is drawn, and how long a key waits at most.
const REFRESH: Duration = Duration::from_millis(200);
/// How long its thread may take to end.
const LAST: Duration = Duration::from_secs(2);
/// 128 + SIGINT: what ends without a checkpoint ends as by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Shows a training on the whole terminal, drawn on stderr. Ctrl-C, or the dialog that `q` opens, saves a checkpoint and
/// stops; a second Ctrl-C ends at once.
pub(crate) struct Dashboard {
    view: Arc<Mutex<View>>,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Takes the terminal. `title` says what is trained; an epoch has so many steps.
    ///
    /// # Errors
    ///
    /// Where stderr is no terminal that can be drawn on, or this is a job in its background.
    pub fn open(title: String, steps_per_epoch: usize, stop: StopRequest) -> io::Result<Self> {
        if !screen::is_able() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let terminal = Terminal::new(CrosstermBackend::new(stderr()))?;
        screen::take()?;
        let view = Arc::new(Mutex::new(View::new(title, steps_per_epoch)));
        let closed = Arc::new(AtomicBool::new(false));
        let keys = Keys {
            view: view.clone(),
            stop,
        };
        let thread = std::thread::Builder::new().name("dashboard".into()).spawn({
            let closed = closed.clone();
            move || {
                let shown = AssertUnwindSafe(|| show(terminal, &keys, &closed));
                // Without keys the terminal has to be one in which Ctrl-C is a signal.
                if catch_unwind(shown).is_err() {
                    screen::give_back();
                }
            }
        });
        let thread = thread.inspect_err(|_| screen::give_back())?;
        Ok(Self {
            view,
            closed,
            thread: Some(thread),
        })
    }

    fn view(&self) -> MutexGuard<'_, View> {
        locked(&self.view)
    }
}

fn locked(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        screen::give_back();
        // Of a terminal that was closed, crossterm 0.29 reads for ever: nobody waits for that.
        let until = Instant::now() + LAST;
        while self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            if Instant::now() > until {
                return;
            }
            std::thread::sleep(REFRESH / 20);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Draws and reads keys until the dashboard is closed or the terminal is gone.
fn show(mut terminal: Terminal<CrosstermBackend<io::Stderr>>, keys: &Keys, closed: &AtomicBool) {
    while !closed.load(Ordering::Relaxed) {
        let drawn = screen::draw(|| {
            let draw = |frame: &mut ratatui::Frame<'_>| {
                locked(&keys.view).draw(frame, keys.stop.is_requested());
            };
            terminal.draw(draw).map(|_| ())
        });
        if !drawn {
            return screen::give_back();
        }
        match event::poll(REFRESH).and_then(|is_there| is_there.then(event::read).transpose()) {
            Ok(Some(Event::Key(key))) => keys.press(key, StopRequest::end_now),
            Ok(_) => (),
            // No keys here; signals still work.
            Err(_) => std::thread::sleep(REFRESH),
        }
    }
}

/// What keys do.
struct Keys {
    view: Arc<Mutex<View>>,
    stop: StopRequest,
}

impl Keys {
    /// A key was pressed; `end_now` ends the program with an exit code.
    fn press<T>(&self, key: KeyEvent, end_now: impl FnOnce(i32) -> T) {
        if key.kind != KeyEventKind::Press {
            return;
        }
        let interrupts =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let dialog = locked(&self.view).dialog;
        match (key.code, dialog) {
            _ if interrupts => {
                if self.stop.is_requested() {
                    end_now(INTERRUPTED);
                }
                self.stop.stop();
            }
            (KeyCode::Char('q'), Dialog::Closed) => locked(&self.view).dialog = Dialog::Quit,
            (KeyCode::Char('s'), Dialog::Quit) => {
                self.stop.stop();
                locked(&self.view).dialog = Dialog::Closed;
            }
            (KeyCode::Char('k'), Dialog::Quit) => {
                end_now(INTERRUPTED);
            }
            (KeyCode::Char('c') | KeyCode::Esc, Dialog::Quit) => {
                locked(&self.view).dialog = Dialog::Closed;
            }
            _ => (),
        }
    }
}

impl MetricsRendererTraining for Dashboard {
    fn update_train(&mut self, state: MetricState) {
        self.view().numbers.update_train(state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.view().numbers.update_valid(state);
    }

    // burn-train's default prints it on stdout, which is for results.
    fn on_train_end(
        &mut self,
        _summary: Option<LearnerSummary>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        Ok(())
    }
}

impl TrainingProgressLogger for Dashboard {
    fn start(
        &mut self,
        total_epochs: usize,
        starting_epoch: usize,
        _total_items: Option<usize>,
        _label: Option<&str>,
    ) {
        self.view().numbers.start(total_epochs, starting_epoch);
    }

    fn start_split(&mut self, split: &str, total_items: usize) {
        self.view().numbers.start_split(split, total_items);
    }

    fn update_split(&mut self, items_processed: usize) {
        self.view().batch_done(items_processed);
    }

    fn end_split(&mut self) {}

    fn update_epoch(&mut self, epoch: usize) {
        self.view().epoch_done(epoch);
    }

    fn end(&mut self) {}

    fn log_event_training(&mut self, _event: String) {}
}

impl MetricsRendererEvaluation for Dashboard {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl EvaluationProgressLogger for Dashboard {
    fn start_global_progress(&mut self, _total_tests: usize) {}
    fn start_test(&mut self, _name: &str, _total_items: usize) {}
    fn update_test_progress(&mut self, _items_processed: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRenderer for Dashboard {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.view().numbers.register(definition);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What these keys do: is a stop asked for, and with which code does the program end?
    fn pressed(keys: &[(char, KeyModifiers)]) -> (bool, Option<i32>) {
        let stop = StopRequest::default();
        let view = Arc::new(Mutex::new(View::new(String::new(), 1)));
        let listener = Keys {
            view,
            stop: stop.clone(),
        };
        let ended = Cell::new(None);
        for &(key, modifiers) in keys {
            let key = KeyEvent::new(KeyCode::Char(key), modifiers);
            listener.press(key, |code| ended.set(Some(code)));
        }
        (stop.is_requested(), ended.get())
    }

    #[test]
    fn ctrl_c_asks_for_a_checkpoint_and_the_second_ends_at_once() {
        let interrupt = ('c', KeyModifiers::CONTROL);
        let plain = |key| (key, KeyModifiers::NONE);
        assert_eq!(pressed(&[interrupt]), (true, None));
        assert_eq!(pressed(&[interrupt, interrupt]), (true, Some(INTERRUPTED)));
        // Also where the dialog is open, in which a bare c cancels.
        assert_eq!(pressed(&[plain('q'), interrupt]), (true, None));
        assert_eq!(pressed(&[plain('q'), plain('c')]), (false, None));
    }

    #[test]
    fn only_the_dialogs_own_keys_stop_a_training() {
        let plain = |key| (key, KeyModifiers::NONE);
        assert_eq!(pressed(&[plain('q'), plain('s')]), (true, None));
        assert_eq!(
            pressed(&[plain('q'), plain('k')]),
            (false, Some(INTERRUPTED))
        );
        assert_eq!(
            pressed(&[plain('s'), plain('k'), plain('c')]),
            (false, None)
        );
    }
}
