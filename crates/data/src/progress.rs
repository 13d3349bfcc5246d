//! Tells a waiting person how far a long download or decoding is.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Whether long work reports its progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is written.
    #[default]
    Hidden,
    /// A bar on standard error for work of more than about a second; a plain line every few
    /// seconds where standard error is no terminal.
    Bar,
}

/// What a [`Meter`] counts.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Images,
    Bytes,
}

/// Short work passes without a word.
const SILENT: Duration = Duration::from_secs(1);
/// Between two plain lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Counts from any number of threads, and shows the count once the work proves long.
pub(crate) struct Meter {
    what: String,
    unit: Unit,
    total: Option<u64>,
    done: AtomicU64,
    started: Instant,
    display: Option<Mutex<Display>>,
}

enum Display {
    Waiting,
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Meter {
    pub fn new(
        progress: Progress,
        what: impl Into<String>,
        unit: Unit,
        total: Option<u64>,
    ) -> Self {
        Self {
            what: what.into(),
            unit,
            total,
            done: AtomicU64::new(0),
            started: Instant::now(),
            display: (progress == Progress::Bar).then(|| Mutex::new(Display::Waiting)),
        }
    }

    pub fn add(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        // A thread that meets another one here has nothing to add to what that one shows.
        let Some(Ok(mut display)) = self.display.as_ref().map(Mutex::try_lock) else {
            return;
        };
        match &mut *display {
            Display::Waiting if self.started.elapsed() < SILENT => {}
            Display::Waiting if std::io::stderr().is_terminal() => {
                *display = Display::Bar(self.bar(done));
            }
            Display::Waiting => {
                self.line(done);
                *display = Display::Lines {
                    last: Instant::now(),
                };
            }
            Display::Bar(bar) => bar.set_position(done),
            Display::Lines { last } if last.elapsed() >= LINE_EVERY => {
                self.line(done);
                *last = Instant::now();
            }
            Display::Lines { .. } => {}
        }
    }

    fn bar(&self, done: u64) -> ProgressBar {
        let numbers = match self.unit {
            Unit::Images => "{human_pos}/{human_len}",
            Unit::Bytes => "{bytes}/{total_bytes} {bytes_per_sec}",
        };
        let bar = ProgressBar::with_draw_target(self.total, ProgressDrawTarget::stderr())
            .with_message(self.what.clone())
            .with_position(done);
        match ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {numbers} {{eta}}")) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    fn line(&self, done: u64) {
        let amount = |count: u64| match self.unit {
            Unit::Images => count.to_string(),
            Unit::Bytes => format!("{:.1} MB", count as f64 / 1e6),
        };
        match self.total {
            Some(total) => eprintln!("{}: {} of {}", self.what, amount(done), amount(total)),
            None => eprintln!("{}: {}", self.what, amount(done)),
        }
    }

    /// Counts the bytes that go through `reader`.
    pub fn reader<R: Read>(&self, reader: R) -> impl Read {
        Counted {
            reader,
            meter: self,
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(Ok(display)) = self.display.as_ref().map(Mutex::lock)
            && let Display::Bar(bar) = &*display
        {
            bar.finish_and_clear();
        }
    }
}

struct Counted<'a, R> {
    reader: R,
    meter: &'a Meter,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.meter.add(count as u64);
        Ok(count)
    }
}
