//! Bars with an estimate.

use std::cell::Cell;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use apt_rl_trainer::duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::table::percent;

/// A search ends about so near to its share.
const NEAR: f64 = 0.001;
/// How often a bar is drawn where nothing was done.
const TICK: Duration = Duration::from_millis(500);

/// A bar with an estimate on stderr, there from the beginning; hidden where that is no terminal.
pub fn progress_bar(total: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        return bar;
    }
    bar.set_style(style(unit));
    // The estimate goes on between two batches, which may take a minute.
    bar.enable_steady_tick(TICK);
    bar
}

/// A bar that counts units; of percent, `%` and what they are of.
pub fn style(unit: &str) -> ProgressStyle {
    ProgressStyle::with_template(&template(unit))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("left", |state: &ProgressState, out: &mut dyn Write| {
            // What cannot be written is missing in the bar.
            let _ = out.write_str(&left(state.pos(), state.elapsed(), state.eta()));
        })
}

fn template(unit: &str) -> String {
    let count = if unit.starts_with('%') {
        format!("{{pos}}{unit}")
    } else {
        format!("{{pos}}/{{len}} {unit}")
    };
    format!("{{bar:40}} {count}, {{left}}")
}

/// The estimate; the time so far where nothing is done that it could come from.
fn left(done: u64, elapsed: Duration, estimate: Duration) -> String {
    match done {
        0 => format!("{} so far", duration(elapsed)),
        _ => format!("left {}", duration(estimate)),
    }
}

/// A search for a threshold or a schedule that meets a share of the FLOPs, on stderr: number of tries, the last try's share, the
/// time, and an estimate.
pub struct SearchBar {
    bar: ProgressBar,
    target: f64,
    /// How far the best try missed the target.
    miss: Cell<f64>,
}

impl SearchBar {
    /// A search for this share of the dense FLOPs.
    pub fn new(target: f64) -> Self {
        let bar = progress_bar(0, "");
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}; {elapsed} so far") {
            bar.set_style(style);
        }
        bar.set_message(format!("looking for {} of the FLOPs", percent(target)));
        bar.enable_steady_tick(Duration::from_millis(200));
        let miss = Cell::new(f64::INFINITY);
        Self { bar, target, miss }
    }

    /// Shows one more try and the share that it gave.
    pub fn found(&self, share: f64) {
        self.bar.inc(1);
        self.miss
            .set(self.miss.get().min((share - self.target).abs()));
        let tries = self.bar.position();
        let left = search_left(tries, self.bar.elapsed(), self.miss.get());
        self.bar.set_message(format!(
            "looking for {} of the FLOPs: try {tries} gave {}, left about {}",
            percent(self.target),
            percent(share),
            duration(left)
        ));
    }
}

/// What a search still takes after so many tries, whose best missed by so much: each try halves the miss, and the last one is
/// measured once more.
fn search_left(tries: u64, elapsed: Duration, miss: f64) -> Duration {
    let each = elapsed.as_secs_f64() / tries.max(1) as f64;
    let halvings = (miss / NEAR).log2().ceil().clamp(0.0, 30.0);
    Duration::from_secs_f64(each * (halvings + 1.0))
}

impl Drop for SearchBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_estimate_as_soon_as_something_is_done() {
        let [elapsed, estimate] = [70, 200].map(Duration::from_secs);
        assert_eq!(left(0, elapsed, estimate), "1m10s so far");
        assert_eq!(left(64, elapsed, estimate), "left 3m20s");
    }

    #[test]
    fn a_search_is_nearly_over_where_a_try_is_near() {
        let left = |miss| search_left(4, Duration::from_secs(8), miss).as_secs();
        assert_eq!(left(0.0005), 2);
        assert_eq!(left(0.008), 8);
        assert_eq!(left(f64::INFINITY), 62);
        assert_eq!(left(0.0), 2);
    }

    #[test]
    fn percent_are_counted_without_their_hundred() {
        assert_eq!(template("images"), "{bar:40} {pos}/{len} images, {left}");
        assert_eq!(template("% learned"), "{bar:40} {pos}% learned, {left}");
    }
}
