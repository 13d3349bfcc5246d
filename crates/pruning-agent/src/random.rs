use apt_vit_model::{Observation, Placement, Reduction, TokenReducer};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::keep_rate::of_layer;
use crate::{KeepRate, keep_top};

/// Keeps a share of the patches at random: the floor that every policy has to beat.
#[derive(Clone, Debug)]
pub struct RandomReducer {
    /// The blocks after which it acts, and the share of what is left that stays there.
    pub layers: Vec<(usize, KeepRate)>,
    /// One seed for each image of the batch, in its order.
    pub seeds: Vec<u64>,
}

impl TokenReducer for RandomReducer {
    fn placement(&self, layer: usize) -> Option<Placement> {
        of_layer(&self.layers, layer).map(|_| Placement::AfterBlock)
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let Some(rate) = of_layer(&self.layers, observation.layer) else {
            return Reduction::none(sequences);
        };
        let mut scores = Vec::with_capacity(sequences.num_rows());
        for slot in 0..sequences.batch() {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seeds[sequences.image(slot)]);
            rng.set_stream(observation.layer as u64);
            // A score for each position, so that it does not matter which rows are still there.
            let by_position: Vec<f32> = (0..sequences.tokens_per_image())
                .map(|_| rng.random())
                .collect();
            let positions = sequences.positions(slot).iter();
            scores.extend(positions.map(|&position| by_position[position]));
        }
        Reduction::keep(keep_top(sequences, &scores, rate))
    }
}
