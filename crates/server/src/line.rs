//! The line of one model: what waits, what is ready, how fast it goes, and the budget that follows from it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Priority;
use crate::elastic::{Elastic, Forecast};
use crate::fidelity::{Fidelity, Sample};
use crate::job::{Job, Prepared};
use crate::queue::{Backlog, Queue};
use crate::speed::{Rate, Speed};

/// A batch takes at most this share of the target: an image that arrives meanwhile waits for its end.
const BATCH: f64 = 0.25;
/// The most answers that are kept to be computed again.
const SAMPLES: usize = 32;

/// Everything that the threads of one model share, behind one lock.
pub(crate) struct Line {
    /// Not decoded yet.
    pub waiting: Queue<Job>,
    /// Being decoded.
    pub preparing: usize,
    /// Decoded.
    pub ready: Queue<Prepared>,
    /// Until when the batch that is being computed will take.
    pub busy_until: Instant,
    /// Images that are being computed.
    pub computing: usize,
    pub speed: Speed,
    /// Images that arrive, by priority.
    pub arrivals: [Rate; Priority::ALL.len()],
    /// Images that are answered.
    pub answers: Rate,
    /// The budget of each priority.
    pub elastic: [Elastic; Priority::ALL.len()],
    /// The shares of its levels.
    pub shares: Vec<f64>,
    batch: f64,
    target: f64,
    /// Answers that are to be computed again, dense.
    pub samples: VecDeque<Sample>,
    pub fidelity: Fidelity,
    /// Nothing new is taken in.
    pub is_closing: bool,
}

impl Line {
    /// `batch` is the FLOPs of a batch, as so many dense images, at most.
    pub fn new(shares: Vec<f64>, speed: Speed, target: Duration, batch: f64) -> Self {
        let now = Instant::now();
        Self {
            waiting: Queue::new(),
            preparing: 0,
            ready: Queue::new(),
            busy_until: now,
            computing: 0,
            speed,
            arrivals: [Rate::new(now); Priority::ALL.len()],
            answers: Rate::new(now),
            elastic: [Elastic::new(target); Priority::ALL.len()],
            shares,
            batch,
            target: target.as_secs_f64(),
            samples: VecDeque::new(),
            fidelity: Fidelity::default(),
            is_closing: false,
        }
    }

    /// Images that wait, decoded or not.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.preparing + self.ready.len()
    }

    /// Does nothing wait, at whatever stage?
    pub fn is_idle(&self) -> bool {
        self.len() == 0
    }

    /// The share that an image of this priority is given now, where the load decides.
    pub fn share(&self, priority: Priority) -> f64 {
        let level = self.elastic[priority.index()].level();
        self.shares.get(level).copied().unwrap_or(1.0)
    }

    /// FLOPs of the next batch, as so many dense images: one at least.
    pub fn batch(&self) -> f64 {
        let in_time = BATCH * self.target / self.speed.seconds(1.0);
        self.batch.min(in_time).max(1.0)
    }

    /// Seconds that a new image of this priority would wait, at what images are given now.
    pub fn wait(&self, priority: Priority, now: Instant) -> f64 {
        self.wait_at(self.backlog(priority), self.share(priority), now)
    }

    /// The least that `images` more would wait, at the least compute.
    pub fn least_wait(&self, images: usize, now: Instant) -> f64 {
        let least = self.shares.last().copied().unwrap_or(1.0);
        let backlog = Backlog {
            elastic: self.len() + images.saturating_sub(1),
            ..Backlog::default()
        };
        self.wait_at(backlog, least, now)
    }

    /// Chooses the budget of each priority.
    pub fn follow_load(&mut self, now: Instant) {
        for priority in Priority::ALL {
            let mut backlog = self.backlog(priority);
            // The last one waits for all others.
            backlog.elastic = backlog.elastic.saturating_sub(1);
            let arrivals = self.arrivals[..=priority.index()].iter();
            let arriving: f64 = arrivals.map(|rate| rate.get(now)).sum();
            let mut elastic = self.elastic[priority.index()];
            elastic.update(now, self.shares.len(), |level| {
                let share = self.shares[level];
                Forecast {
                    // What is being computed takes as long, whatever is chosen.
                    wait: self.seconds(backlog, share),
                    busy: arriving * self.speed.seconds(share),
                }
            });
            self.elastic[priority.index()] = elastic;
        }
    }

    /// Is some priority given less than the most?
    pub fn is_lowered(&self) -> bool {
        self.elastic.iter().any(|elastic| elastic.level() > 0)
    }

    /// Keeps an answer to compute it again, dense, unless there are enough.
    pub fn keep_sample(&mut self, sample: Sample) {
        if self.samples.len() < SAMPLES {
            self.samples.push_back(sample);
        }
    }

    fn backlog(&self, priority: Priority) -> Backlog {
        let preparing = Backlog {
            elastic: self.preparing,
            fixed: 0.0,
            images: self.preparing,
        };
        let (waiting, ready) = (self.waiting.backlog(priority), self.ready.backlog(priority));
        waiting.plus(ready).plus(preparing)
    }

    fn wait_at(&self, backlog: Backlog, share: f64, now: Instant) -> f64 {
        let running = self.busy_until.saturating_duration_since(now);
        running.as_secs_f64() + self.seconds(backlog, share)
    }

    /// How long a backlog takes where the load decides for `share`.
    fn seconds(&self, backlog: Backlog, share: f64) -> f64 {
        let elastic = backlog.elastic as f64 * self.speed.seconds(share);
        elastic + backlog.fixed * self.speed.seconds(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_a_quarter_of_the_target_at_most_and_holds_one_image_in_any_case() {
        let batch = |target: u64| {
            let speed = Speed::new(vec![1.0], 0.05);
            Line::new(vec![1.0], speed, Duration::from_millis(target), 32.0).batch()
        };
        assert!((batch(1000) - 5.0).abs() < 1e-9);
        assert_eq!(batch(10), 1.0);
        assert_eq!(batch(100_000), 32.0);
    }
}
