use std::cmp::Ordering;
use std::sync::Arc;

use apt_vit_model::{
    FlopsCount, Needs, Observation, Parked, Placement, Reading, Reduction, Sequences, TokenReducer,
    UniformReducer, VitConfig,
};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::pairs::{Pairs, PairsReducer, PairsSettings};
use crate::budget::kept_at_equal_counts;
use crate::parking::Parking;
use crate::proportion::PROPORTION;
use crate::{
    ADAPTIVE, AgentError, Agents, Budgeting, Meaning, Policy, PolicySettings, Removal, Selection,
    SelectionNoise,
};

/// Merged tokens that CLS also reads apart are attended to a little less. It was better than as published in a probe, and for
/// `pairs` on images of development; with taught parking, nothing else was tried.
pub(super) const PARKED: f64 = 0.65;

/// Settings of [`Park`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParkSettings {
    /// The blocks (0-based) in which tokens are parked.
    pub layers: Option<Vec<usize>>,
    /// Width of the agents' networks within.
    pub width: Option<usize>,
    /// Images keep as many patches as they are worth.
    pub adaptive: bool,
    /// Does a token that is parked also merge?
    pub merge: bool,
    /// Does CLS read what is parked?
    pub read: bool,
    /// How much more merged tokens are attended to.
    pub proportion: f64,
    /// So many parked tokens of an image come back in each block.
    pub recall: usize,
}

impl Default for ParkSettings {
    fn default() -> Self {
        Self {
            layers: None,
            width: None,
            adaptive: true,
            merge: true,
            read: true,
            proportion: PARKED,
            recall: 0,
        }
    }
}

impl PolicySettings for ParkSettings {
    const NAME: &'static str = "park";
    const SUMMARY: &'static str = "as `pairs`, but what goes is parked: no block computes it any more, and CLS goes on reading it at the price of \
                                   its attention. `aptvit prune` teaches it on a frozen model; before that nothing parked is heard";
    const MEANINGS: &'static [Meaning] = &[
        Meaning {
            key: "layers",
            meaning: "the blocks (0-based) in which tokens are parked; all but the last where it is not said",
        },
        Meaning {
            key: "width",
            meaning: "width of the agents' networks within; a sixth of the model's where it is not said",
        },
        ADAPTIVE,
        Meaning {
            key: "merge",
            meaning: "does a token that is parked also merge into the one that is most like it? Else that one stays as it is",
        },
        Meaning {
            key: "read",
            meaning: "does CLS read what is parked? Else it is removed, which is what reading is to be compared with",
        },
        PROPORTION,
        Meaning {
            key: "recall",
            meaning: "so many of an image's parked tokens, those that CLS attends to most, are computed again from each block on; so many more \
                      are parked in their place",
        },
    ];
    const FOR_FROZEN: bool = true;
    type Policy = Park;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Park, AgentError> {
        if self.recall > 0 && !self.read {
            return Err(AgentError::Setting {
                key: "recall",
                found: self.recall.to_string(),
                expected: "must be 0 where `read` is false: what is removed cannot come back"
                    .into(),
            });
        }
        let pairs = PairsSettings {
            layers: self.layers.clone(),
            width: self.width,
            adaptive: self.adaptive,
            proportion: self.proportion,
        };
        Ok(Park {
            pairs: pairs.init(model, device)?,
            parking: Parking::init(model, device),
            merges: self.merge,
            reads: self.read,
            recalls: self.recall,
        })
    }
}

/// Removed tokens stay readable for the CLS token: see [`Parking`]. Which go is decided as [`Pairs`] decides it.
#[derive(Module, Debug)]
pub struct Park {
    /// Who decides which tokens go.
    pub pairs: Pairs,
    /// How parked tokens are read.
    pub parking: Parking,
    #[module(skip)]
    merges: bool,
    #[module(skip)]
    reads: bool,
    #[module(skip)]
    recalls: usize,
}

impl Park {
    fn parking_reducer(
        &self,
        selection: &Selection,
        noise: Option<SelectionNoise>,
    ) -> ParkReducer<'_> {
        // Others go in the place of those that come back.
        let selection = match selection {
            Selection::Kept { kept } => Selection::Kept {
                kept: self.fewer(kept),
            },
            Selection::KeptOfBatch { kept } => Selection::KeptOfBatch {
                kept: self.fewer(kept),
            },
            other => other.clone(),
        };
        ParkReducer {
            pairs: self.pairs.pairs_reducer(&selection, noise),
            readings: self.reads.then(|| self.parking.readings()),
            merges: self.merges,
            recalls: self.recalls,
        }
    }

    fn fewer(&self, kept: &[usize]) -> Vec<usize> {
        // In the first block nothing is parked yet.
        let blocks = kept.iter().enumerate();
        let fewer = |(block, kept): (usize, &usize)| {
            let back = if block == 0 { 0 } else { self.recalls };
            kept.saturating_sub(back).max(1)
        };
        blocks.map(fewer).collect()
    }
}

impl Policy for Park {
    fn blocks(&self) -> &[usize] {
        self.pairs.blocks()
    }

    fn placement(&self) -> Placement {
        self.pairs.placement()
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        _: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        Box::new(self.parking_reducer(selection, None))
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        self.pairs.flops(model, seen, left)
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_counts(self, model, share)
    }

    fn budgeting(&self) -> Budgeting {
        self.pairs.budgeting()
    }

    fn agents(&self) -> Option<&dyn Agents> {
        Some(self)
    }

    fn parking(&self) -> Option<&Parking> {
        self.reads.then_some(&self.parking)
    }

    fn set_parking(&mut self, parking: Parking) {
        self.parking = parking;
    }
}

impl Agents for Park {
    fn needs(&self, layer: usize) -> Needs {
        self.pairs.needs(layer)
    }

    fn logits(&self, index: usize, observation: &Observation<'_>) -> Tensor<2> {
        self.pairs.logits(index, observation)
    }

    fn removal(&self) -> Removal {
        self.pairs.removal()
    }

    fn is_adaptive(&self) -> bool {
        self.pairs.is_adaptive()
    }

    fn noisy_reducer<'a>(
        &'a self,
        selection: &Selection,
        noise: SelectionNoise,
    ) -> Box<dyn TokenReducer + 'a> {
        Box::new(self.parking_reducer(selection, Some(noise)))
    }
}

/// Parks what pairs remove.
struct ParkReducer<'a> {
    pairs: PairsReducer<'a>,
    /// None: what goes is removed.
    readings: Option<Arc<[Reading]>>,
    merges: bool,
    recalls: usize,
}

impl TokenReducer for ParkReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.pairs.placement(layer)
    }

    fn needs(&self, layer: usize) -> Needs {
        TokenReducer::needs(&self.pairs, layer)
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        self.pairs.by_image().map(|_| self as _)
    }

    /// Where nothing is parked, merging is all that happens.
    fn uniform(&self) -> Option<&dyn UniformReducer> {
        let only_merges = self.readings.is_none() && self.merges;
        self.pairs.uniform().filter(|_| only_merges)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let reduction = self.pairs.reduce(observation);
        let park = self.readings.clone().map(|readings| apt_vit_model::Park {
            rows: reduction.keep.iter().map(|keep| !keep).collect(),
            recall: match observation.parked {
                Some(parked) => recalled(parked, observation.sequences, self.recalls),
                None => Vec::new(),
            },
            readings,
        });
        Reduction {
            merge: reduction.merge.filter(|_| self.merges),
            park,
            ..reduction
        }
    }
}

/// Of each image's parked tokens the `count` that CLS attends to most.
fn recalled(parked: &Parked, sequences: &Sequences, count: usize) -> Vec<bool> {
    let attention = &parked.attention;
    let mut back = vec![false; attention.len()];
    for tokens in parked.of_each_slot(sequences) {
        let mut tokens = tokens.to_vec();
        let more = |a: &usize, b: &usize| -> Ordering {
            attention[*b].total_cmp(&attention[*a]).then(a.cmp(b))
        };
        tokens.sort_by(more);
        tokens
            .into_iter()
            .take(count)
            .for_each(|token| back[token] = true);
    }
    back
}
