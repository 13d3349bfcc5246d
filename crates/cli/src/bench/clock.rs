//! Timing things in turns.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use apt_rl_trainer::peak_memory;
use indicatif::ProgressBar;
use serde::Serialize;

/// Something to time, and its name.
pub struct Case<'a> {
    pub name: String,
    /// Passes that `run` makes.
    pub passes: usize,
    pub run: Box<dyn FnMut() -> Result<()> + 'a>,
}

impl<'a> Case<'a> {
    /// A case that makes one pass. `run` returns when all of its work is done, also on a GPU.
    pub fn new(name: impl Into<String>, run: impl FnMut() -> Result<()> + 'a) -> Self {
        Self {
            name: name.into(),
            passes: 1,
            run: Box::new(run),
        }
    }

    /// The same, where `run` makes so many passes.
    pub fn of_passes(self, passes: usize) -> Self {
        Self { passes, ..self }
    }
}

/// How long each case is timed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    /// Rounds before the clock counts.
    pub warmup: usize,
    /// Rounds that count, at least.
    pub repeats: usize,
    /// The time that counts, at least.
    pub time: Duration,
}

/// What one case took, round by round.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Seconds of a pass, in each round.
    pub seconds: Vec<f64>,
    /// The most memory that the process held meanwhile, in MiB, where the system tells.
    pub peak_rss_mb: Option<f64>,
    /// What all rounds took together.
    spent: Duration,
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

    /// How many times as long `other` took: the median of the ratios of each round that both had.
    pub fn speedup_over(&self, other: &Self) -> f64 {
        let rounds = self.seconds.iter().zip(&other.seconds);
        median(rounds.map(|(own, other)| other / own).collect())
    }

    fn are_enough(&self, effort: &Effort) -> bool {
        self.seconds.len() >= effort.repeats && self.spent >= effort.time
    }

    fn add(&mut self, took: Duration, passes: usize, peak_rss_mb: Option<f64>) {
        self.spent += took;
        self.seconds.push(took.as_secs_f64() / passes as f64);
        self.peak_rss_mb = match (self.peak_rss_mb, peak_rss_mb) {
            (Some(known), Some(peak)) => Some(known.max(peak)),
            (known, peak) => known.or(peak),
        };
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

/// Runs the cases in turns: first some rounds that do not count, then those that do. A case that was timed
/// long enough waits for the others.
///
/// # Errors
///
/// The first of a case.
pub fn time(cases: &mut [Case<'_>], effort: &Effort, bar: &ProgressBar) -> Result<Vec<Times>> {
    for _ in 0..effort.warmup {
        for case in cases.iter_mut() {
            (case.run)()?;
            bar.inc(1);
        }
    }
    let mut times = vec![Times::default(); cases.len()];
    for round in 0.. {
        let mut all_have_enough = true;
        for (case, times) in cases.iter_mut().zip(&mut times) {
            if times.are_enough(effort) {
                continue;
            }
            all_have_enough = false;
            forget_peak();
            let start = Instant::now();
            (case.run)()?;
            times.add(start.elapsed(), case.passes, peak_rss_mb());
            if round >= effort.repeats {
                // The bar knows of no more rounds.
                bar.inc_length(1);
            }
            bar.inc(1);
        }
        if all_have_enough {
            break;
        }
    }
    Ok(times)
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
    use std::cell::RefCell;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let times = |seconds: &[f64]| Times {
            seconds: seconds.to_vec(),
            ..Default::default()
        };
        let (fast, slow) = (times(&[1.0, 2.0, 4.0]), times(&[2.0, 6.0, 8.0]));
        assert_eq!(fast.speedup_over(&slow), 2.0);
        assert_eq!(slow.per_image(2).median, 3000.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    /// The order in which cases ran: one millisecond of `a`, twelve of `b`.
    fn order(effort: Effort) -> (String, Vec<Times>) {
        let order = RefCell::new(String::new());
        let case = |name, milliseconds| {
            let order = &order;
            Case::new(name, move || {
                order.borrow_mut().push_str(name);
                std::thread::sleep(Duration::from_millis(milliseconds));
                Ok(())
            })
        };
        let mut cases = [case("a", 1), case("b", 12)];
        let times = time(&mut cases, &effort, &ProgressBar::hidden()).unwrap();
        drop(cases);
        (order.into_inner(), times)
    }

    #[test]
    fn cases_run_in_turns_and_warm_up() {
        let (order, times) = order(Effort {
            warmup: 1,
            repeats: 2,
            ..Default::default()
        });
        assert_eq!(order, "ababab");
        assert!(times.iter().all(|times| times.seconds.len() == 2));
    }

    #[test]
    fn each_case_is_timed_for_as_long_as_was_asked() {
        let (order, times) = order(Effort {
            warmup: 0,
            repeats: 1,
            time: Duration::from_millis(10),
        });
        assert!(order.starts_with("abaa"), "{order}");
        assert_eq!(times[1].seconds.len(), 1);
        let spent: f64 = times[0].seconds.iter().sum();
        assert!(spent >= 0.01, "{spent}");
    }

    #[test]
    fn a_round_of_several_passes_counts_as_one_pass_each() {
        let pause = || {
            std::thread::sleep(Duration::from_millis(8));
            Ok(())
        };
        let mut cases = [Case::new("four", pause).of_passes(4)];
        let effort = Effort {
            repeats: 1,
            ..Default::default()
        };
        let times = time(&mut cases, &effort, &ProgressBar::hidden()).unwrap();
        assert!((0.002..0.008).contains(&times[0].median()));
    }
}
