//! Dropout without a stored mask: whether a value is dropped follows from the mask's seed and the
//! value's place in its tensor.

use super::Mask;
use super::math::vectorised;

vectorised! {
    /// Applies dropout to the values that start at place `first`: some become zero, the others
    /// are scaled so that the mean stays.
    pub(super) fn drop_values(values: &mut [f32], first: usize, mask: Mask) {
        let first = first as u32;
        let factor = (1.0 - mask.probability).recip() as f32;
        let threshold = (mask.probability * 2.0_f64.powi(32)) as u32;
        for (index, value) in values.iter_mut().enumerate() {
            let place = first.wrapping_add(index as u32);
            let random = scramble(scramble(place ^ mask.seed[0]) ^ mask.seed[1]);
            *value = if random < threshold { 0.0 } else { *value * factor };
        }
    }
}

/// A permutation of the integers that looks random (Wellons' `lowbias32`).
#[inline(always)]
fn scramble(mut bits: u32) -> u32 {
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
    bits ^ (bits >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_dropped_as_shall_be_and_no_two_masks_agree() {
        let dropped = |seed, probability| {
            let mut values = vec![1.0; 100_000];
            drop_values(&mut values, 7, Mask { seed, probability });
            let factor = (1.0 / (1.0 - probability)) as f32;
            assert!(values.iter().all(|&value| value == 0.0 || value == factor));
            values.iter().map(|&value| value == 0.0).collect::<Vec<_>>()
        };
        for (probability, seed) in [(0.1, [1, 2]), (0.5, [2, 1]), (0.9, [0, 0])] {
            let first = dropped(seed, probability);
            let second = dropped([seed[0] + 1, seed[1]], probability);
            let share = |pairs: &dyn Fn(usize) -> bool| {
                (0..first.len() - 1).filter(|&index| pairs(index)).count() as f64
                    / first.len() as f64
            };
            let close = |share: f64, expected: f64| (share - expected).abs() < 0.006;
            assert!(close(share(&|i| first[i]), probability));
            // Neighbours, and the same place in another mask, are independent.
            assert!(close(
                share(&|i| first[i] && first[i + 1]),
                probability * probability
            ));
            assert!(close(
                share(&|i| first[i] && second[i]),
                probability * probability
            ));
        }
    }

    #[test]
    fn a_value_is_dropped_for_its_place_alone() {
        let mask = Mask {
            seed: [3, 4],
            probability: 0.3,
        };
        let mut whole = vec![1.0; 1000];
        drop_values(&mut whole, 0, mask);
        let mut part = vec![1.0; 345];
        drop_values(&mut part, 123, mask);
        assert_eq!(part, whole[123..468]);
    }
}
