//! How long an image takes, as far as it was measured, and how many come.

use std::time::{Duration, Instant};

/// Weight of a new measurement of one image.
const WEIGHT: f64 = 0.2;
/// Least weight of a measurement that is faster than expected.
const WEIGHT_OF_FASTER: f64 = 0.5;
/// A pass counts as at most this many times slower than expected.
const MOST_SLOWER: f64 = 2.0;
/// Time constant of the average of arrivals.
const WINDOW: Duration = Duration::from_secs(3);

/// Seconds an image takes by its share of the dense FLOPs.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    shares: Vec<f64>,
    seconds: Vec<f64>,
    measured: Vec<bool>,
}

impl Speed {
    /// Of these shares (ascending or descending), where a dense image takes `dense` seconds. Until it is measured, time is
    /// taken to be proportional to FLOPs.
    pub fn new(shares: Vec<f64>, dense: f64) -> Self {
        Self {
            seconds: shares.iter().map(|share| share * dense).collect(),
            measured: vec![false; shares.len()],
            shares,
        }
    }

    /// An image of this share took so many seconds, in the mean of `images` that were computed at once.
    pub fn measure(&mut self, share: f64, seconds: f64, images: usize) {
        let near = self.nearest(share);
        let scaled = seconds * self.shares[near] / share;
        // A machine that was busy elsewhere makes one pass slow, and nothing makes it faster than it is.
        let ratio = (scaled / self.seconds[near]).min(MOST_SLOWER);
        let mut weight = 1.0 - (1.0 - WEIGHT).powi(images.min(8) as i32);
        if ratio < 1.0 {
            weight = weight.max(WEIGHT_OF_FASTER);
        }
        let change = 1.0 + weight * (ratio - 1.0);
        self.seconds[near] *= change;
        self.measured[near] = true;
        // What was not measured yet is as much slower or faster as this one.
        for (seconds, _) in self
            .seconds
            .iter_mut()
            .zip(&self.measured)
            .filter(|pair| !pair.1)
        {
            *seconds *= change;
        }
    }

    /// Seconds that an image of this share takes.
    pub fn seconds(&self, share: f64) -> f64 {
        let near = self.nearest(share);
        self.seconds[near] * share / self.shares[near]
    }

    fn nearest(&self, share: f64) -> usize {
        let distance = |index: &usize| (self.shares[*index] - share).abs();
        let indices = 0..self.shares.len();
        indices
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .unwrap_or_default()
    }
}

/// Arrivals a second, averaged over a few seconds.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    value: f64,
    at: Instant,
}

impl Rate {
    /// None so far.
    pub fn new(now: Instant) -> Self {
        Self {
            value: 0.0,
            at: now,
        }
    }

    /// So many came.
    pub fn add(&mut self, now: Instant, count: usize) {
        self.value = self.get(now) + count as f64 / WINDOW.as_secs_f64();
        self.at = now;
    }

    /// A second.
    pub fn get(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at);
        self.value * (-passed.as_secs_f64() / WINDOW.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_follows_what_was() {
        let mut speed = Speed::new(vec![1.0, 0.5], 1.0);
        let mut measure = |share, seconds| {
            (0..30).for_each(|_| speed.measure(share, seconds, 4));
            [1.0, 0.5].map(|share| speed.seconds(share))
        };
        let near = |found: [f64; 2], expected: [f64; 2]| {
            let mut pairs = found.iter().zip(expected);
            assert!(
                pairs.all(|(found, expected)| (found / expected - 1.0).abs() < 1e-3),
                "{found:?}"
            );
        };
        near(measure(1.0, 0.1), [0.1, 0.05]);
        near(measure(0.5, 0.08), [0.1, 0.08]);
    }

    #[test]
    fn one_pass_in_which_the_machine_stood_still_moves_little_and_is_soon_forgotten() {
        let mut speed = Speed::new(vec![1.0], 0.1);
        speed.measure(1.0, 30.0, 32);
        assert!(speed.seconds(1.0) <= 0.2);
        (0..5).for_each(|_| speed.measure(1.0, 0.1, 1));
        assert!(speed.seconds(1.0) < 0.11);
    }

    #[test]
    fn a_steady_stream_has_its_rate_and_silence_has_none() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for arrival in 0..1500 {
            rate.add(start + Duration::from_millis(10 * arrival), 1);
        }
        let end = start + Duration::from_secs(15);
        assert!((rate.get(end) - 100.0).abs() < 5.0, "{}", rate.get(end));
        assert!(rate.get(end + Duration::from_secs(15)) < 1.0);
    }
}
