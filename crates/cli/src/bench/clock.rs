//! Timing things in turns.

use std::fs;
use std::time::Instant;

use apt_rl_trainer::peak_memory;
use indicatif::ProgressBar;
use serde::Serialize;

/// Something to time, and its name.
pub struct Case<'a> {
    pub name: &'static str,
    pub run: Box<dyn FnMut() + 'a>,
}

impl<'a> Case<'a> {
    pub fn new(name: &'static str, run: impl FnMut() + 'a) -> Self {
        let run = Box::new(run);
        Self { name, run }
    }
}

/// What one case took, round by round.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Seconds of each round.
    pub seconds: Vec<f64>,
    /// The most memory that the process held meanwhile, in MiB, where the system tells.
    pub peak_rss_mb: Option<f64>,
}

/// Milliseconds per image.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PerImage {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Times {
    pub fn median(&self) -> f64 {
        median(self.seconds.clone())
    }

    pub fn per_image(&self, batch: usize) -> PerImage {
        let ms = |seconds: f64| seconds * 1e3 / batch as f64;
        let bound = |choose: fn(f64, f64) -> f64| self.seconds.iter().copied().reduce(choose);
        PerImage {
            median: ms(self.median()),
            min: ms(bound(f64::min).unwrap_or(f64::NAN)),
            max: ms(bound(f64::max).unwrap_or(f64::NAN)),
        }
    }

    /// How many times as long `other` took: the median of the ratios of each round.
    pub fn speedup_over(&self, other: &Self) -> f64 {
        let rounds = self.seconds.iter().zip(&other.seconds);
        median(rounds.map(|(own, other)| other / own).collect())
    }
}

/// The middle value, or the mean of the two in the middle; NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => (values[length / 2 - 1] + values[length / 2]) / 2.0,
    }
}

/// Runs the cases in turns: `warmup` rounds, then `repeats` that count.
pub fn time(
    cases: &mut [Case<'_>],
    warmup: usize,
    repeats: usize,
    bar: &ProgressBar,
) -> Vec<Times> {
    let mut times = vec![Times::default(); cases.len()];
    for round in 0..warmup + repeats {
        for (case, times) in cases.iter_mut().zip(&mut times) {
            forget_peak();
            let start = Instant::now();
            (case.run)();
            let seconds = start.elapsed().as_secs_f64();
            bar.inc(1);
            if round >= warmup {
                times.seconds.push(seconds);
                let peak = peak_rss_mb();
                times.peak_rss_mb = times
                    .peak_rss_mb
                    .map_or(peak, |known| peak.map(|peak| known.max(peak)));
            }
        }
    }
    times
}

/// Lets the system forget the process' memory peak so far (Linux alone can).
fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn peak_rss_mb() -> Option<f64> {
    peak_memory().map(|bytes| bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let times = |seconds: &[f64]| Times {
            seconds: seconds.to_vec(),
            peak_rss_mb: None,
        };
        let (fast, slow) = (times(&[1.0, 2.0, 4.0]), times(&[2.0, 6.0, 8.0]));
        assert_eq!(fast.speedup_over(&slow), 2.0);
        assert_eq!(slow.per_image(2).median, 3000.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn cases_run_in_turns_and_warm_up() {
        let order = std::cell::RefCell::new(String::new());
        let case = |name| Case::new(name, || order.borrow_mut().push_str(name));
        let times = time(&mut [case("a"), case("b")], 1, 2, &ProgressBar::hidden());
        assert_eq!(order.into_inner(), "ababab");
        assert!(times.iter().all(|times| times.seconds.len() == 2));
    }
}
