//! A curve over a training's steps, in as many points as a terminal can show.

use std::collections::VecDeque;

/// More points than a terminal has columns, in braille dots.
const MOST: usize = 512;

/// Points of a curve. Where there are too many, neighbours become their mean.
pub struct Curve {
    points: Vec<(f64, f64)>,
    /// So many values make a point.
    stride: usize,
    waiting: Vec<(f64, f64)>,
    /// So many of the last values are averaged.
    window: usize,
    last: VecDeque<f64>,
}

impl Default for Curve {
    fn default() -> Self {
        Self::new()
    }
}

impl Curve {
    /// One without points.
    pub fn new() -> Self {
        Self::mean_of_last(1)
    }

    /// One without points, of the mean of the last `window` values at each step: for values that alternate.
    pub fn mean_of_last(window: usize) -> Self {
        Self {
            points: Vec::new(),
            stride: 1,
            waiting: Vec::new(),
            window: window.max(1),
            last: VecDeque::new(),
        }
    }

    /// Adds a value; one that is no number leaves no gap.
    pub fn push(&mut self, step: f64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.last.push_back(value);
        if self.last.len() > self.window {
            self.last.pop_front();
        }
        let value = self.last.iter().sum::<f64>() / self.last.len() as f64;
        self.waiting.push((step, value));
        if self.waiting.len() < self.stride {
            return;
        }
        let point = mean(&self.waiting);
        self.waiting.clear();
        self.points.push(point);
        if self.points.len() >= MOST {
            self.points = self.points.chunks(2).map(mean).collect();
            self.stride *= 2;
        }
    }

    /// Its points: step and value.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }
}

fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let count = points.len().max(1) as f64;
    (x / count, y / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternating_values_become_their_mean() {
        let mut curve = Curve::mean_of_last(2);
        for (step, value) in [0.5, 1.0, 0.5, 1.0].into_iter().enumerate() {
            curve.push(step as f64, value);
        }
        let values: Vec<f64> = curve.points().iter().map(|point| point.1).collect();
        assert_eq!(values, [0.5, 0.75, 0.75, 0.75]);
    }

    #[test]
    fn a_long_curve_keeps_its_course_in_few_points() {
        let mut curve = Curve::new();
        for step in 0..100_000 {
            let value = if step % 10 == 0 {
                f64::NAN
            } else {
                f64::from(step)
            };
            curve.push(f64::from(step), value);
        }
        let points = curve.points();
        assert!(
            points.len() <= MOST && points.len() >= MOST / 2,
            "{}",
            points.len()
        );
        assert!(points.iter().all(|(x, y)| (x - y).abs() < 1e-6));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
