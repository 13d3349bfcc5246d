//! A budget that follows the load.

use std::time::{Duration, Instant};

/// Compute rises only where the wait would be less than this part of the target.
const EASY: f64 = 0.5;
/// Compute rises only where computing what arrives would take at most this share of the time.
const BUSY: f64 = 0.9;
/// Compute rises only after both have held for this long.
const CALM: Duration = Duration::from_secs(1);
/// How far ahead the queue is forecast where more arrives than can be computed, in seconds.
const HORIZON: f64 = 5.0;

/// What a level of compute would mean now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Seconds that what waits now would wait.
    pub wait: f64,
    /// The share of the time in which the device would compute what arrives.
    pub busy: f64,
}

impl Forecast {
    /// Seconds that what arrives a little later would wait.
    fn later(self) -> f64 {
        self.wait + HORIZON * (self.busy - 1.0).max(0.0)
    }
}

/// Chooses a level of compute, 0 being the most. It falls at once, as far as the target needs, and rises after a while
/// of calm: between the two is room, so that it does not swing.
#[derive(Clone, Copy, Debug)]
pub struct Elastic {
    /// Seconds that an image may wait.
    target: f64,
    level: usize,
    calm_since: Option<Instant>,
}

impl Elastic {
    /// The most compute, until the wait would be more than `target`.
    pub fn new(target: Duration) -> Self {
        Self {
            target: target.as_secs_f64(),
            level: 0,
            calm_since: None,
        }
    }

    /// The level that it has chosen.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Chooses among `levels` by what each would mean.
    pub fn update(&mut self, now: Instant, levels: usize, forecast: impl Fn(usize) -> Forecast) {
        let last = levels.saturating_sub(1);
        let fits = |level: &usize| forecast(*level).later() <= self.target;
        let needed = (0..levels).find(fits).unwrap_or(last);
        if needed > self.level {
            self.level = needed;
            self.calm_since = None;
            return;
        }
        let easy = |level: &usize| {
            let forecast = forecast(*level);
            forecast.wait <= EASY * self.target && forecast.busy <= BUSY
        };
        match (0..self.level).find(easy) {
            None => self.calm_since = None,
            Some(higher) => {
                let since = *self.calm_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= CALM {
                    self.level = higher;
                    self.calm_since = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: [f64; 4] = [1.0, 0.7, 0.5, 0.35];

    /// So many images wait, and so many come in the time in which one dense image is computed, 0.1 s.
    fn load(waiting: f64, arriving: f64) -> impl Fn(usize) -> Forecast {
        move |level| Forecast {
            wait: waiting * SHARES[level] * 0.1,
            busy: arriving * SHARES[level],
        }
    }

    fn elastic() -> (Elastic, Instant) {
        (Elastic::new(Duration::from_secs(1)), Instant::now())
    }

    #[test]
    fn a_long_queue_lowers_compute_at_once_as_far_as_needed() {
        let (mut elastic, now) = elastic();
        elastic.update(now, 4, load(9.0, 0.5));
        assert_eq!(elastic.level(), 0);
        elastic.update(now, 4, load(13.0, 0.5));
        assert_eq!(elastic.level(), 1);
        elastic.update(now, 4, load(500.0, 0.5));
        assert_eq!(elastic.level(), 3);
    }

    #[test]
    fn more_than_can_be_computed_lowers_it_before_the_queue_is_long() {
        let (mut elastic, now) = elastic();
        elastic.update(now, 4, load(1.0, 1.9));
        assert_eq!(elastic.level(), 2);
    }

    #[test]
    fn it_rises_after_a_while_of_calm_and_not_under_load_that_would_lower_it_again() {
        let (mut elastic, mut now) = elastic();
        elastic.update(now, 4, load(500.0, 2.5));
        assert_eq!(elastic.level(), 3);
        // The short queue of a level that keeps up is no reason to rise.
        for _ in 0..100 {
            now += CALM;
            elastic.update(now, 4, load(1.0, 2.5));
            assert_eq!(elastic.level(), 3);
        }
        elastic.update(now, 4, load(0.0, 0.0));
        assert_eq!(elastic.level(), 3);
        now += CALM;
        elastic.update(now, 4, load(0.0, 0.0));
        assert_eq!(elastic.level(), 0);
    }

    #[test]
    fn between_the_two_bounds_it_stays() {
        let (mut elastic, mut now) = elastic();
        elastic.update(now, 4, load(13.0, 0.5));
        for _ in 0..10 {
            now += CALM;
            elastic.update(now, 4, load(7.0, 0.5));
            assert_eq!(elastic.level(), 1);
        }
    }
}
