//! How much each patch has in common with the others (PiToMe).

use apt_vit_model::Keys;
use pulp::{Arch, Simd, WithSimd};

use crate::similarity::{LANES, ROWS, products};

/// The energy of each of `rows` among them: the mean, over the others, of the cosine `x` of the two keys where it is at
/// least `margin`, and of `exp(x - margin) - 1` where it is below (Tran et al., "Accelerating Transformers with
/// Spectrum-Preserving Token Merging", 2024, section 3.2, with alpha = 1). The first case counts as `x - margin`, as in
/// the authors' code, so that the two meet at the margin.
///
/// What is like many others has much of it; what stands alone has little.
pub(crate) fn energies(keys: &Keys, rows: &[usize], margin: f32) -> Vec<f32> {
    Arch::new().dispatch(Energies { keys, rows, margin })
}

struct Energies<'a> {
    keys: &'a Keys,
    rows: &'a [usize],
    margin: f32,
}

impl WithSimd for Energies<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let Self { keys, rows, margin } = self;
        let (width, count) = (keys.width(), rows.len());
        let groups = count.div_ceil(LANES);
        let mut columns = vec![[0.0; LANES]; groups * width];
        for (place, &row) in rows.iter().enumerate() {
            let columns = &mut columns[place / LANES * width..][..width];
            for (column, &value) in columns.iter_mut().zip(keys.vector(row)) {
                column[place % LANES] = value;
            }
        }
        let mut sums = vec![[0.0f32; LANES]; groups];
        for (chunk, first) in rows.chunks(ROWS).zip((0..).step_by(ROWS)) {
            let vectors: [&[f32]; ROWS] =
                std::array::from_fn(|index| keys.vector(chunk[index.min(chunk.len() - 1)]));
            // Each pair is met once: with those before it, a row was already.
            for group in first / LANES..groups {
                let products = products(vectors, &columns[group * width..][..width]);
                let mut of_group = [0.0; LANES];
                for (index, products) in products.iter().enumerate().take(chunk.len()) {
                    let own = first + index;
                    let mut terms = [0.0; LANES];
                    for (lane, term) in terms.iter_mut().enumerate() {
                        let place = group * LANES + lane;
                        let is_later = place > own && place < count;
                        *term = if is_later {
                            above_margin(products[lane] - margin)
                        } else {
                            0.0
                        };
                    }
                    for (sum, term) in of_group.iter_mut().zip(terms) {
                        *sum += term;
                    }
                    sums[own / LANES][own % LANES] += terms.iter().sum::<f32>();
                }
                for (sum, term) in sums[group].iter_mut().zip(of_group) {
                    *sum += term;
                }
            }
        }
        let others = count.saturating_sub(1).max(1) as f32;
        let sums = sums.as_flattened()[..count].iter();
        sums.map(|sum| sum / others).collect()
    }
}

/// `x` from 0 on, and `exp(x) - 1` below.
#[inline(always)]
fn above_margin(x: f32) -> f32 {
    // Cosines differ by 2 at most: the series of an eighth of it converges at once, and vectors of it are computed
    // side by side, which the library's exponential prevents.
    let eighth = x.clamp(-2.0, 0.0) / 8.0;
    let series = 1.0 / 24.0 + eighth * (1.0 / 120.0);
    let series = 0.5 + eighth * (1.0 / 6.0 + eighth * series);
    let root = 1.0 + eighth * (1.0 + eighth * series);
    let (square, above) = (root * root, x.max(0.0));
    let fourth = square * square;
    fourth * fourth - 1.0 + above
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, Tensor};

    #[test]
    fn the_series_is_the_exponential() {
        for step in 0..=300 {
            let x = -2.0 + step as f32 * 0.01;
            let expected = if x >= 0.0 { x } else { x.exp() - 1.0 };
            assert!((above_margin(x) - expected).abs() < 3e-6, "{x}");
        }
    }

    #[test]
    fn energies_are_the_means_of_the_definition() {
        let device = Device::default();
        device.seed(3);
        for count in [1, 2, 15, 16, 17, 50] {
            let keys = Tensor::<2>::random([count + 2, 24], Distribution::Default, &device);
            let keys = Keys::new(keys - 0.3);
            let rows: Vec<usize> = (1..=count).collect();
            for margin in [0.0, 0.6] {
                let found = energies(&keys, &rows, margin);
                for (&row, found) in rows.iter().zip(found) {
                    let others = rows.iter().filter(|&&other| other != row);
                    let terms = others.map(|&other| {
                        let pairs = keys.vector(row).iter().zip(keys.vector(other));
                        let x = pairs.map(|(a, b)| a * b).sum::<f32>() - margin;
                        if x >= 0.0 { x } else { x.exp() - 1.0 }
                    });
                    let expected = terms.sum::<f32>() / (count.max(2) - 1) as f32;
                    assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
                }
            }
        }
    }

    #[test]
    fn what_is_like_many_has_more_energy_than_what_stands_alone() {
        // Three patches alike, then two alike, then one alone.
        let keys = [
            [1.0f32, 0.0, 0.0],
            [1.0, 0.1, 0.0],
            [1.0, 0.0, 0.1],
            [0.0, 1.0, 0.0],
            [0.0, 1.0, 0.1],
            [0.0, 0.0, -1.0],
        ];
        let keys = Tensor::<1>::from_data(keys.as_flattened(), &Device::default());
        let keys = Keys::new(keys.reshape([6, 3]));
        let found = energies(&keys, &[0, 1, 2, 3, 4, 5], 0.5);
        assert!(found[0] > found[3] && found[3] > found[5], "{found:?}");
    }
}
