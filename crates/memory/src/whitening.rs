//! Features in which what varies within every class counts little.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// This share of the mean variance is added to each variance, so that few images suffice.
const SHRINKAGE: f64 = 0.1;

/// Features, less their mean, times the inverse of `L`, where `L L^T` is their covariance within classes: the cosine of two
/// images then counts what tells classes apart (Fisher's linear discriminant; whitened nearest neighbours).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whitening {
    mean: Vec<f32>,
    /// The inverse of `L`, whose rows grow by one value: `[width * (width + 1) / 2]`.
    triangle: Vec<f32>,
}

impl Whitening {
    /// Leaves features of this width as they are.
    pub fn none(width: usize) -> Self {
        let triangle = (0..width).flat_map(|row| (0..=row).map(move |column| (row, column)));
        Self {
            mean: vec![0.0; width],
            triangle: triangle
                .map(|(row, column)| f32::from(u8::from(row == column)))
                .collect(),
        }
    }

    /// Learned from features of this width and their classes.
    pub fn learn(width: usize, images: &[(&str, &[f32])]) -> Self {
        let mut classes: BTreeMap<&str, Vec<&[f32]>> = BTreeMap::new();
        for (class, features) in images {
            classes.entry(class).or_default().push(features);
        }
        let mut covariance = vec![0.0_f64; width * width];
        for rows in classes.values() {
            let mean = mean(width, rows);
            for row in rows {
                let centered: Vec<f64> = row
                    .iter()
                    .zip(&mean)
                    .map(|(x, m)| f64::from(*x) - m)
                    .collect();
                for (place, value) in centered.iter().enumerate() {
                    let sums = &mut covariance[place * width..][..=place];
                    sums.iter_mut()
                        .zip(&centered)
                        .for_each(|(sum, other)| *sum += value * other);
                }
            }
        }
        let count = images.len().max(1) as f64;
        covariance.iter_mut().for_each(|sum| *sum /= count);
        let variances = (0..width).map(|place| covariance[place * width + place]);
        let added = SHRINKAGE * variances.sum::<f64>() / width as f64;
        if added <= 0.0 {
            return Self::none(width);
        }
        for place in 0..width {
            covariance[place * width + place] += added;
        }
        let all: Vec<&[f32]> = images.iter().map(|image| image.1).collect();
        Self {
            mean: mean(width, &all).iter().map(|mean| *mean as f32).collect(),
            triangle: inverse(&cholesky(covariance, width), width),
        }
    }

    /// Values of the features.
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// What is compared of features.
    pub fn apply(&self, features: &[f32]) -> Vec<f32> {
        let centered: Vec<f32> = features
            .iter()
            .zip(&self.mean)
            .map(|(x, m)| x - m)
            .collect();
        let mut rest = self.triangle.as_slice();
        let rows = (1..=self.width()).map(|length| {
            let (row, others) = rest.split_at(length);
            rest = others;
            row.iter().zip(&centered).map(|(a, b)| a * b).sum()
        });
        rows.collect()
    }

    /// What that computes, a multiplication and an addition counted as two.
    pub fn flops(&self) -> u64 {
        2 * self.triangle.len() as u64
    }

    /// What cannot be, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        let expected = self.width() * (self.width() + 1) / 2;
        let found = self.triangle.len();
        if found != expected {
            return Some(format!(
                "whitening.triangle has {found} values: expected {expected}"
            ));
        }
        let are_finite = self
            .mean
            .iter()
            .chain(&self.triangle)
            .all(|value| value.is_finite());
        (!are_finite).then(|| "whitening: expected finite numbers".to_string())
    }
}

fn mean(width: usize, rows: &[&[f32]]) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    for row in rows {
        sums.iter_mut()
            .zip(*row)
            .for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let count = rows.len().max(1) as f64;
    sums.into_iter().map(|sum| sum / count).collect()
}

/// The lower triangle `L` with `L L^T` as given, of which the lower triangle is read.
fn cholesky(mut matrix: Vec<f64>, width: usize) -> Vec<f64> {
    for row in 0..width {
        let (done, current) = matrix.split_at_mut(row * width);
        for column in 0..=row {
            let other = &done[(column * width).min(done.len())..];
            let known: f64 = if column < row {
                (0..column).map(|k| current[k] * other[k]).sum()
            } else {
                current[..row].iter().map(|value| value * value).sum()
            };
            let rest = current[column] - known;
            current[column] = if column < row {
                rest / other[column]
            } else {
                rest.max(f64::MIN_POSITIVE).sqrt()
            };
        }
    }
    matrix
}

/// The inverse of a lower triangle, row by row without zeros.
fn inverse(lower: &[f64], width: usize) -> Vec<f32> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(width);
    for row in 0..width {
        let factors = &lower[row * width..][..=row];
        let mut sums = vec![0.0; row + 1];
        for (factor, other) in factors.iter().zip(&rows) {
            sums.iter_mut()
                .zip(other)
                .for_each(|(sum, value)| *sum -= factor * value);
        }
        sums[row] = 1.0;
        sums.iter_mut().for_each(|sum| *sum /= factors[row]);
        rows.push(sums);
    }
    rows.concat()
        .into_iter()
        .map(|value| value as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::cosine;
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    /// Two classes that the last feature tells apart, which varies within none; the others vary much.
    fn images() -> Vec<(&'static str, Vec<f32>)> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut image = |place: usize| {
            let (class, sign) = [("a", 2.0), ("b", -2.0)][place % 2];
            let mut features: Vec<f32> = (0..30).map(|_| rng.random_range(-5.0..5.0)).collect();
            features.push(sign);
            (class, features)
        };
        (0..400).map(&mut image).collect()
    }

    #[test]
    fn what_tells_classes_apart_decides_what_is_near() {
        let images = images();
        let rows: Vec<(&str, &[f32])> = images.iter().map(|(c, f)| (*c, f.as_slice())).collect();
        let whitening = Whitening::learn(31, &rows);
        assert_eq!(whitening.fault(), None);
        let same = |features: &dyn Fn(usize) -> Vec<f32>| {
            let nearest = |image: usize| {
                let own = features(image);
                let others = (0..images.len()).filter(|other| *other != image);
                others.max_by(|&a, &b| {
                    cosine(&own, &features(a)).total_cmp(&cosine(&own, &features(b)))
                })
            };
            let right =
                (0..100).filter(|&image| images[nearest(image).unwrap()].0 == images[image].0);
            right.count()
        };
        let plain = same(&|image| images[image].1.clone());
        let white = same(&|image| whitening.apply(&images[image].1));
        assert!(white > plain + 10, "{white} of 100, without {plain}");
    }

    #[test]
    fn whitened_features_have_the_same_variance_in_all_directions() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let image = |_| -> Vec<f32> {
            let mut noise = || rng.random_range(-1.0..1.0_f32);
            let (x, y) = (noise(), noise());
            vec![3.0 * x, 2.0 * x + y, noise()]
        };
        let images: Vec<Vec<f32>> = (0..2000).map(image).collect();
        let rows: Vec<(&str, &[f32])> = images.iter().map(|f| ("a", f.as_slice())).collect();
        let whitening = Whitening::learn(3, &rows);
        let white: Vec<Vec<f32>> = images.iter().map(|image| whitening.apply(image)).collect();
        let moment = |a: usize, b: usize| {
            white
                .iter()
                .map(|row| f64::from(row[a] * row[b]))
                .sum::<f64>()
                / white.len() as f64
        };
        // The shrinkage leaves directions of small variance somewhat smaller.
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert!(moment(a, b).abs() < 0.15, "{}", moment(a, b));
        }
        assert!(moment(0, 0) < 1.1 && moment(0, 0) > 0.8);
    }

    #[test]
    fn too_few_images_leave_features_as_they_are() {
        let none = Whitening::learn(2, &[("a", &[1.0, 2.0])]);
        assert_eq!(none, Whitening::none(2));
        assert_eq!(none.apply(&[3.0, 4.0]), [3.0, 4.0]);
        assert_eq!(Whitening::learn(2, &[]), none);
    }
}
