//! Clouds: a fractal surface by the diamond-square algorithm (Fournier, Fussell and Carpenter, 1982).

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// A surface from 0 to 1.
pub struct Plasma {
    side: usize,
    values: Vec<f32>,
}

impl Plasma {
    /// Its height there.
    pub fn at(&self, x: usize, y: usize) -> f32 {
        self.values[y % self.side * self.side + x % self.side]
    }
}

/// One of at least `side` points a side; what is added at random is divided by `decay` whenever the distance of points is
/// halved.
pub fn plasma(side: usize, decay: f32, rng: &mut ChaCha8Rng) -> Plasma {
    let side = side.max(2).next_power_of_two();
    let mut values = vec![0.0f32; side * side];
    let (mut step, mut wobble) = (side, 100.0f32);
    // The surface meets itself at its borders.
    let place = |x: usize, y: usize| y % side * side + x % side;
    while step >= 2 {
        let half = step / 2;
        let mut moved = |sum: f32| sum / 4.0 + wobble * rng.random_range(-1.0..=1.0);
        for y in (0..side).step_by(step) {
            for x in (0..side).step_by(step) {
                let corners = [(x, y), (x + step, y), (x, y + step), (x + step, y + step)];
                let sum = corners.map(|(x, y)| values[place(x, y)]).iter().sum();
                values[place(x + half, y + half)] = moved(sum);
            }
        }
        for y in (0..side).step_by(half) {
            let start = if y / half % 2 == 0 { half } else { 0 };
            for x in (start..side).step_by(step) {
                let around = [
                    (x + half, y),
                    (x + side - half, y),
                    (x, y + half),
                    (x, y + side - half),
                ];
                let sum = around.map(|(x, y)| values[place(x, y)]).iter().sum();
                values[place(x, y)] = moved(sum);
            }
        }
        step = half;
        wobble /= decay;
    }
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = (most - least).max(f32::MIN_POSITIVE);
    values
        .iter_mut()
        .for_each(|value| *value = (*value - least) / range);
    Plasma { side, values }
}
