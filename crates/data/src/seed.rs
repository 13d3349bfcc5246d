//! Independent random streams from a few numbers.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

/// The generator of this crate: small, fast, and the same on every platform.
pub(crate) type Rng = Xoshiro256PlusPlus;

/// Mixes any count of numbers into one well-spread 64-bit seed: a chain of SplitMix64 steps, so
/// that order and count matter and neighbouring inputs give unrelated outputs.
///
/// ```
/// use apt_data::mix_seed;
/// assert_eq!(mix_seed(&[7, 1]), mix_seed(&[7, 1]));
/// assert_ne!(mix_seed(&[7, 1]), mix_seed(&[1, 7]));
/// ```
pub fn mix_seed(parts: &[u64]) -> u64 {
    // The odd factor keeps a part that equals the state from cancelling it.
    const SPREAD: u64 = 0xd134_2543_de82_ef95;
    parts
        .iter()
        .fold(splitmix64(parts.len() as u64), |state, &part| {
            splitmix64(state.wrapping_mul(SPREAD) ^ splitmix64(part))
        })
}

/// A generator for [`mix_seed`] of `parts`.
pub(crate) fn rng(parts: &[u64]) -> Rng {
    Rng::seed_from_u64(mix_seed(parts))
}

/// One step of Steele, Lea and Flood's SplitMix64.
fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn neighbouring_seeds_never_meet() {
        let mut seen = HashSet::new();
        for a in 0..100 {
            for b in 0..100 {
                assert!(
                    seen.insert(mix_seed(&[a, b])),
                    "[{a}, {b}] met another seed"
                );
            }
            assert!(seen.insert(mix_seed(&[a])));
        }
    }

    #[test]
    fn each_output_bit_is_set_for_half_of_the_inputs() {
        for bit in 0..64 {
            let set = (0..4000).filter(|&i| mix_seed(&[0, i]) >> bit & 1 == 1);
            assert!((1800..2200).contains(&set.count()), "bit {bit} is skewed");
        }
    }
}
