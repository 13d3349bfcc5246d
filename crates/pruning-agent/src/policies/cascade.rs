use apt_vit_model::host::read;
use apt_vit_model::{
    FlopsCount, Heads, Needs, Observation, Placement, Reduction, TokenReducer, VitConfig,
};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::activation::softmax;
use serde::{Deserialize, Serialize};

use super::tome::{Tome, TomeSettings};
use crate::exiting::first_tokens;
use crate::proportion::{PROPORTION, PUBLISHED};
use crate::{AgentError, Budgeting, Meaning, Policy, PolicySettings, Selection};

/// Settings of [`Cascade`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CascadeSettings {
    /// How much of a budget the first pass takes.
    pub first: f64,
    /// How much more merged tokens are attended to.
    pub proportion: f64,
}

impl Default for CascadeSettings {
    fn default() -> Self {
        Self {
            first: 0.95,
            proportion: PUBLISHED,
        }
    }
}

impl PolicySettings for CascadeSettings {
    const NAME: &'static str = "cascade";
    const SUMMARY: &'static str = "`tome` first, and images whose answer is then not certain start over, whole; how certain it has to be is fitted on \
                                   images; before it is fitted, as `tome`. For models with a head";
    const MEANINGS: &'static [Meaning] = &[
        Meaning {
            key: "first",
            meaning: "the part of a budget that the first pass takes, above 0 and at most 1; the rest is for images that start over",
        },
        PROPORTION,
    ];
    type Policy = Cascade;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Cascade, AgentError> {
        if !(self.first > 0.0 && self.first <= 1.0) {
            return Err(AgentError::Setting {
                key: "first",
                found: self.first.to_string(),
                expected: "must be above 0 and at most 1".into(),
            });
        }
        if model.num_heads_on_top() == 0 {
            return Err(AgentError::Setting {
                key: "policy",
                found: Self::NAME.into(),
                expected: "must be another one, for a model without a head has no classes to be certain of".into(),
            });
        }
        let proportion = self.proportion;
        Ok(Cascade {
            tome: TomeSettings { proportion }.init(model, device)?,
            first: self.first,
            blocks: (0..model.num_layers).collect(),
        })
    }
}

/// Two passes for some images: all of them go through the model with their most similar tokens merged ([`Tome`]), and where the
/// most probable class is less probable than a threshold, an image goes through it once more with nothing removed.
///
/// A cascade of classifiers (Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", 2001; for
/// networks of one family, Wang et al., "Not All Images are Worth 16x16 Words", 2021) whose members are the same model.
#[derive(Module, Debug)]
pub struct Cascade {
    tome: Tome,
    #[module(skip)]
    first: f64,
    /// Those in which tokens merge, and the last one.
    #[module(skip)]
    blocks: Vec<usize>,
}

impl Cascade {
    fn last(&self) -> usize {
        self.blocks.len() - 1
    }
}

impl Policy for Cascade {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn placement(&self) -> Placement {
        self.tome.placement()
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        seeds: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        let tome = self.tome.reducer(selection, seeds);
        match *selection {
            Selection::Cascade { certainty, .. } => Box::new(CascadeReducer {
                tome,
                certainty,
                last: self.last(),
            }),
            _ => tome,
        }
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        self.tome.flops(model, seen, left)
    }

    /// In the last block, where nothing merges, the heads answer once more than they would.
    fn flops_in(&self, layer: usize, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        if layer == self.last() {
            return Heads::flops(model);
        }
        self.flops(model, seen, left)
    }

    /// As `tome`; nothing goes in the last block.
    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        let mut kept = self.tome.kept_for(model, share)?;
        kept.extend(kept.last().copied());
        Ok(kept)
    }

    fn budgeting(&self) -> Budgeting {
        Budgeting::Certainty { first: self.first }
    }
}

struct CascadeReducer<'a> {
    tome: Box<dyn TokenReducer + Sync + 'a>,
    certainty: f64,
    last: usize,
}

impl CascadeReducer<'_> {
    /// The slots of images whose most probable class is not probable enough. Features have no classes: they are trusted.
    fn doubted(&self, observation: &Observation<'_>) -> Vec<usize> {
        let heads = observation.heads.filter(Heads::classifies);
        let Some(heads) = heads else {
            return Vec::new();
        };
        let tokens = first_tokens(observation, heads.tokens());
        let certain = softmax(heads.answer(&tokens).0, 1).max_dim(1);
        let certain = read(certain).into_iter().enumerate();
        let doubted = certain.filter(|&(_, certain)| f64::from(certain) < self.certainty);
        doubted.map(|(slot, _)| slot).collect()
    }
}

impl TokenReducer for CascadeReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        let last = (layer == self.last).then_some(Placement::AfterBlock);
        last.or_else(|| self.tome.placement(layer))
    }

    fn needs(&self, layer: usize) -> Needs {
        if layer == self.last {
            return Needs::default();
        }
        self.tome.needs(layer)
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        if observation.layer != self.last {
            return self.tome.reduce(observation);
        }
        Reduction {
            restart: self.doubted(observation),
            ..Reduction::none(observation.sequences)
        }
    }
}
