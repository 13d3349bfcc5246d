use apt_vit_model::{FlopsCount, Observation, Placement, Reduction, TokenReducer, VitConfig};
use burn::module::Module;
use burn::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::acting_blocks::{acting_blocks, fewer_in, of_layer};
use crate::budget::kept_at_equal_rates;
use crate::{AgentError, LAYERS, Meaning, Policy, PolicySettings, Selection, keep_top};

/// Settings of [`Random`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomSettings {
    /// The blocks (0-based) after which it acts.
    pub layers: Option<Vec<usize>>,
}

impl PolicySettings for RandomSettings {
    const NAME: &'static str = "random";
    const SUMMARY: &'static str =
        "keeps patches at random: the floor that every policy has to beat";
    const MEANINGS: &'static [Meaning] = &[LAYERS];
    type Policy = Random;

    fn init(&self, model: &VitConfig, _: &Device) -> Result<Random, AgentError> {
        Ok(Random {
            blocks: acting_blocks(self.layers.as_ref(), model)?,
            patches: model.num_patches(),
        })
    }
}

/// Keeps patches at random: the floor that every policy has to beat.
#[derive(Module, Debug)]
pub struct Random {
    #[module(skip)]
    blocks: Vec<usize>,
    #[module(skip)]
    patches: usize,
}

impl Policy for Random {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        seeds: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        Box::new(RandomReducer {
            layers: fewer_in(&self.blocks, selection.kept(), self.patches, 0),
            seeds: seeds.to_vec(),
        })
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_rates(self, model, share)
    }

    fn flops(&self, _: &VitConfig, _: usize, _: usize) -> FlopsCount {
        0
    }
}

struct RandomReducer {
    /// Blocks, and how many patches stay in each.
    layers: Vec<(usize, usize)>,
    /// One for each image of the batch, in its order.
    seeds: Vec<u64>,
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
        let Some(count) = of_layer(&self.layers, observation.layer) else {
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
        Reduction::keep(keep_top(sequences, &scores, count))
    }
}
