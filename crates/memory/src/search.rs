//! The exact search for the most similar entries.

use apt_vit_model::Precision;
use apt_vit_model::fused::Prepacked;
use burn::module::Param;
use burn::nn::Linear;
use burn::prelude::*;
use rayon::prelude::*;

/// Columns of the matrix product are a multiple of this.
const COLUMNS: usize = 32;

/// Of how many candidates by the short product the exact cosine is computed, beyond those that are asked for.
const SPARE: usize = 24;

/// Features laid out to be searched: one matrix product gives the cosine with every entry.
///
/// On a CPU the product is in 8-bit integers, which read a quarter of the memory, and the best candidates are compared
/// again in 32-bit floats. Elsewhere it is in 32-bit floats.
pub struct Index {
    width: usize,
    /// The entries' features, each of length 1, one after the other.
    units: Vec<f32>,
    product: Option<Prepacked>,
    device: Device,
}

impl Index {
    /// Of entries with so many features each.
    pub fn new<'a>(
        width: usize,
        features: impl Iterator<Item = &'a [f32]>,
        device: &Device,
    ) -> Self {
        let units: Vec<f32> = features.flat_map(unit).collect();
        let product = (!units.is_empty())
            .then(|| product(&units, width, device))
            .flatten();
        Self {
            width,
            units,
            product,
            device: device.clone(),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.units.len() / self.width
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// For each of some features the `count` entries with the largest cosine and that cosine, the most similar first;
    /// of equal ones the earlier.
    pub fn nearest(&self, features: &[Vec<f32>], count: usize) -> Vec<Vec<(usize, f32)>> {
        let Some(product) = &self.product else {
            return vec![Vec::new(); features.len()];
        };
        let queries: Vec<Vec<f32>> = features
            .iter()
            .map(|features| unit(features).collect())
            .collect();
        let rows = TensorData::new(queries.concat(), [queries.len(), self.width]);
        let scores = product.forward(&Tensor::from_data(rows, &self.device));
        let [_, columns] = scores.dims();
        let scores = scores.into_data().convert::<f32>();
        let Ok(scores) = scores.as_slice::<f32>() else {
            return vec![Vec::new(); features.len()];
        };
        let found = queries.par_iter().zip(scores.par_chunks_exact(columns));
        found
            .map(|(query, scores)| self.best(query, &scores[..self.len()], count))
            .collect()
    }

    /// The best of the entries by these scores, compared again.
    fn best(&self, query: &[f32], scores: &[f32], count: usize) -> Vec<(usize, f32)> {
        let mut candidates = highest(scores, count + SPARE);
        for (entry, score) in &mut candidates {
            *score = dot(query, &self.units[*entry * self.width..][..self.width]);
        }
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        candidates.truncate(count);
        candidates
    }
}

/// The product with all entries; the columns that fill it up are zero.
fn product(units: &[f32], width: usize, device: &Device) -> Option<Prepacked> {
    let entries = units.len() / width;
    let columns = entries.next_multiple_of(COLUMNS);
    let mut weight = vec![0.0; width * columns];
    for (entry, unit) in units.chunks_exact(width).enumerate() {
        for (row, value) in unit.iter().enumerate() {
            weight[row * columns + entry] = *value;
        }
    }
    let weight = Tensor::from_data(TensorData::new(weight, [width, columns]), device);
    let layer = Linear {
        weight: Param::from_tensor(weight),
        bias: Some(Param::from_tensor(Tensor::zeros([columns], device))),
    };
    Prepacked::new(&layer, Precision::Int8).or_else(|| Prepacked::new(&layer, Precision::F32))
}

/// The places of the `count` largest scores, with them.
fn highest(scores: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut places: Vec<(usize, f32)> = Vec::with_capacity(2 * count.max(1));
    let mut least = f32::NEG_INFINITY;
    for (place, &score) in scores.iter().enumerate() {
        if score <= least {
            continue;
        }
        places.push((place, score));
        if places.len() == 2 * count {
            places.select_nth_unstable_by(count - 1, |a, b| b.1.total_cmp(&a.1));
            places.truncate(count);
            least = places[count - 1].1;
        }
    }
    places.sort_by(|a, b| b.1.total_cmp(&a.1));
    places.truncate(count);
    places
}

/// The features divided by their length.
fn unit(features: &[f32]) -> impl Iterator<Item = f32> + '_ {
    let length = dot(features, features).sqrt().max(f32::MIN_POSITIVE);
    features.iter().map(move |value| value / length)
}

/// The cosine of two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    dot(a, b) / lengths.max(f32::MIN_POSITIVE)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    fn features(count: usize, width: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut features = || (0..width).map(|_| rng.random_range(-1.0..1.0)).collect();
        (0..count).map(|_| features()).collect()
    }

    #[test]
    fn the_product_finds_what_comparing_with_each_entry_finds() {
        let device = Device::default();
        for width in [32, 64, 48] {
            let entries = features(1000, width, 1);
            let queries = features(7, width, 2);
            let index = Index::new(width, entries.iter().map(Vec::as_slice), &device);
            assert_eq!(index.len(), 1000);
            let found = index.nearest(&queries, 9);
            for (query, found) in queries.iter().zip(found) {
                let mut expected: Vec<usize> = (0..entries.len()).collect();
                let cosine = |entry: usize| cosine(query, &entries[entry]);
                expected.sort_by(|&a, &b| cosine(b).total_cmp(&cosine(a)));
                let places: Vec<usize> = found.iter().map(|found| found.0).collect();
                assert_eq!(places, expected[..9], "width {width}");
                assert!((found[0].1 - cosine(expected[0])).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn fewer_entries_than_asked_for_are_all_found_and_of_none_there_is_none() {
        let device = Device::default();
        let entries = features(3, 16, 1);
        let index = Index::new(16, entries.iter().map(Vec::as_slice), &device);
        assert_eq!(index.nearest(&entries[1..2], 10)[0].len(), 3);
        assert_eq!(index.nearest(&entries[1..2], 10)[0][0].0, 1);
        let none = Index::new(16, std::iter::empty(), &device);
        assert_eq!(none.len(), 0);
        assert!(none.nearest(&entries, 5).iter().all(Vec::is_empty));
    }
}
