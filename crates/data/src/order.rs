//! The endless order in which training images come.

use crate::seed;
use rand::seq::SliceRandom;

/// Keeps the seed's streams apart.
const ORDER: u64 = 0x0de7;

/// Pass `p` over `len` images is a permutation from (seed, p); positions count through all passes.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    seed: u64,
    len: usize,
    /// The latest pass that was looked at.
    pass: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// # Panics
    ///
    /// If there is no image.
    pub fn new(len: usize, seed: u64) -> Self {
        assert!(len > 0, "an order of at least one image");
        Self {
            seed,
            len,
            pass: None,
        }
    }

    /// The image at a position. Neighbouring positions are cheap.
    pub fn at(&mut self, position: u64) -> usize {
        let pass = position / self.len as u64;
        let place = (position % self.len as u64) as usize;
        match &self.pass {
            Some((known, permutation)) if *known == pass => permutation[place],
            _ => {
                let mut permutation: Vec<usize> = (0..self.len).collect();
                permutation.shuffle(&mut seed::rng(&[self.seed, ORDER, pass]));
                let image = permutation[place];
                self.pass = Some((pass, permutation));
                image
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_pass_shows_each_image_once(len in 1usize..50, seed: u64, pass in 0u64..1000) {
            let mut order = Order::new(len, seed);
            let start = pass * len as u64;
            let mut images: Vec<_> = (start..start + len as u64).map(|p| order.at(p)).collect();
            images.sort_unstable();
            prop_assert_eq!(images, (0..len).collect::<Vec<_>>());
        }

        #[test]
        fn a_position_does_not_depend_on_what_was_asked_before(
            positions in proptest::collection::vec(0u64..100, 1..20),
        ) {
            let mut order = Order::new(7, 3);
            for position in positions {
                prop_assert_eq!(order.at(position), Order::new(7, 3).at(position));
            }
        }
    }

    #[test]
    fn passes_and_seeds_differ() {
        let pass = |seed, pass: u64| {
            let mut order = Order::new(50, seed);
            (pass * 50..(pass + 1) * 50)
                .map(move |p| order.at(p))
                .collect::<Vec<_>>()
        };
        assert_ne!(pass(0, 0), pass(0, 1));
        assert_ne!(pass(0, 0), pass(1, 0));
    }
}
