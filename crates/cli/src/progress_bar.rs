//! Bars with an estimate.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::table::percent;

/// A bar with an estimate on stderr; hidden where that is no terminal.
pub fn progress_bar(total: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(style(unit));
    bar
}

/// A bar that counts units.
pub fn style(unit: &str) -> ProgressStyle {
    let template = format!("{{bar:40}} {{pos}}/{{len}} {unit}, left {{eta}}");
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A search for a threshold or a schedule that meets a share of the FLOPs, on stderr: number of tries, the last try's share, and
/// the time. It has no estimate: the search ends as soon as a try is near enough.
pub struct SearchBar {
    bar: ProgressBar,
    target: f64,
}

impl SearchBar {
    /// A search for this share of the dense FLOPs.
    pub fn new(target: f64) -> Self {
        let bar = progress_bar(0, "");
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed} so far") {
            bar.set_style(style);
        }
        bar.set_message(format!("looking for {} of the FLOPs", percent(target)));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, target }
    }

    /// Shows one more try and the share that it gave.
    pub fn found(&self, share: f64) {
        self.bar.inc(1);
        self.bar.set_message(format!(
            "looking for {} of the FLOPs: try {} gave {}",
            percent(self.target),
            self.bar.position(),
            percent(share)
        ));
    }
}

impl Drop for SearchBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
