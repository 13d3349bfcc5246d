//! Policies that answer an image before the last block where that hardly changes the answer: alone, or beside another one
//! that removes tokens until then.

use apt_vit_model::host::{read, upload_places};
use apt_vit_model::{
    Exit, FlopsCount, Heads, Needs, Observation, Placement, Reduction, TokenReducer,
    UniformReducer, VitConfig, vit_flops,
};
use burn::module::Module;
use burn::prelude::*;

use crate::budget::{counted_flops, kept_at_equal_counts};
use crate::networks::{ExitAgent, ExitAgentConfig, certainty};
use crate::parking::Parking;
use crate::policies::Park;
use crate::price::{EFFECT_SCALE, blocks_saved, least_scores_at};
use crate::{AgentError, Agents, Budgeting, Policy, Selection, check_blocks};

/// What a pair that merges moves the answer by, in nats, where its agent's score is 0: half the square of the effect.
const NATS_OF_PAIR: f64 = 0.5 * (EFFECT_SCALE as f64) * (EFFECT_SCALE as f64);

/// The exits of a model: one agent for each block in which images may be answered.
#[derive(Module, Debug)]
pub struct Exits {
    /// One for each of the blocks.
    pub agents: Vec<ExitAgent>,
    #[module(skip)]
    blocks: Vec<usize>,
}

impl Exits {
    /// Fresh ones in `blocks` (0-based); where these are not said, from a third of the model on, but for its last block.
    ///
    /// # Errors
    ///
    /// Where the model has no such blocks.
    pub fn init(
        blocks: Option<&Vec<usize>>,
        model: &VitConfig,
        device: &Device,
    ) -> Result<Self, AgentError> {
        let layers = model.num_layers;
        let last = layers.saturating_sub(1).max(1);
        let usual = || (layers.saturating_sub(1) / 3..last).collect();
        let blocks: Vec<usize> = blocks.cloned().unwrap_or_else(usual);
        check_blocks(&blocks, layers)?;
        let agent = ExitAgentConfig::new(model.hidden_size);
        Ok(Self {
            agents: blocks.iter().map(|_| agent.init(device)).collect(),
            blocks,
        })
    }

    /// The blocks (0-based) between whose attention and MLP images may be answered.
    pub fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn index_of(&self, layer: usize) -> Option<usize> {
        self.blocks.iter().position(|&block| block == layer)
    }
}

/// Exits, beside agents that merge or park tokens where there are such.
#[derive(Module, Debug)]
pub struct Exiting {
    /// Who merges tokens, and may park them.
    pub merging: Option<Park>,
    /// Who answers early.
    pub exits: Exits,
    #[module(skip)]
    blocks: Vec<usize>,
    /// How many times the price of FLOPs an early answer must be worth.
    #[module(skip)]
    dearness: f64,
    #[module(skip)]
    layers: usize,
    #[module(skip)]
    tokens: usize,
}

impl Exiting {
    /// # Errors
    ///
    /// Where `dearness` is no positive number, or an exit is in a block in which nothing merges.
    pub(crate) fn new(
        merging: Option<Park>,
        exits: Exits,
        dearness: f64,
        model: &VitConfig,
    ) -> Result<Self, AgentError> {
        if !(dearness > 0.0 && dearness.is_finite()) {
            return Err(AgentError::Setting {
                key: "dearness",
                found: dearness.to_string(),
                expected: "must be a number above 0".into(),
            });
        }
        let blocks = match &merging {
            Some(merging) => merging.blocks().to_vec(),
            None => exits.blocks().to_vec(),
        };
        if !exits.blocks().iter().all(|block| blocks.contains(block)) {
            return Err(AgentError::Layers {
                layers: exits.blocks().to_vec(),
                num_layers: model.num_layers - 1,
            });
        }
        Ok(Self {
            merging,
            exits,
            blocks,
            dearness,
            layers: model.num_layers,
            tokens: model.num_tokens(),
        })
    }

    /// What goes beside the exits.
    fn selection_of_merging(&self, merging: &Park, selection: &Selection) -> Selection {
        match selection {
            Selection::Price { price } => {
                let each = price / (NATS_OF_PAIR * (self.layers * self.tokens) as f64);
                Selection::LeastScores {
                    scores: least_scores_at(0.5 * each.ln(), merging.blocks(), self.layers),
                }
            }
            other => other.clone(),
        }
    }

    /// All patches until the last block in which all images can be answered within a share of the FLOPs, and none from there
    /// on.
    fn depth_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        let patches = model.num_patches();
        let dense = vit_flops(model, &[], 0) as f64;
        let ends = |end: usize| -> Vec<usize> {
            let blocks = 0..self.blocks.len();
            blocks
                .map(|index| if index < end { patches } else { 0 })
                .collect()
        };
        let computed = |kept: &[usize]| {
            let flops: FlopsCount = counted_flops(self, model, kept).iter().sum();
            flops as f64 / dense
        };
        let all = self.blocks.len();
        if share == 1.0 {
            return Ok(ends(all));
        }
        let fits = |end: &usize| computed(&ends(*end)) <= share + 1e-9;
        let found = (0..all).rev().find(fits).filter(|_| share < 1.0);
        found.map(ends).ok_or_else(|| AgentError::Share {
            share,
            least: computed(&ends(0)),
            most: 1.0,
        })
    }
}

impl Policy for Exiting {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn placement(&self) -> Placement {
        Placement::AfterAttention
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        seeds: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        let merging = self.merging.as_ref();
        let end = || {
            let first = selection.kept().iter().position(|&kept| kept == 0)?;
            self.blocks.get(first).copied()
        };
        let ends = match selection {
            Selection::Price { price } => Ends::AtPrice(price / self.dearness),
            _ if merging.is_none() => end().map_or(Ends::Never, Ends::In),
            _ => Ends::Never,
        };
        Box::new(ExitingReducer {
            policy: self,
            merging: merging.map(|merging| {
                merging.reducer(&self.selection_of_merging(merging, selection), seeds)
            }),
            ends,
        })
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        let merging = self.merging.as_ref();
        merging.map_or(0, |merging| merging.flops(model, seen, left))
    }

    fn flops_in(&self, layer: usize, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        let merging = self.flops(model, seen, left);
        let exit = self.exits.index_of(layer);
        merging + exit.map_or(0, |_| ExitAgent::flops(model))
    }

    /// With exits alone every image keeps all of its patches until all are answered in the same block.
    fn left(&self, model: &VitConfig, seen: usize, kept: usize) -> usize {
        match &self.merging {
            None if kept == 0 => 0,
            _ => (kept + model.num_prefix_tokens()).min(seen),
        }
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        if self.merging.is_none() {
            return self.depth_for(model, share);
        }
        kept_at_equal_counts(self, model, share)
    }

    fn budgeting(&self) -> Budgeting {
        Budgeting::Allocation
    }

    fn agents(&self) -> Option<&dyn Agents> {
        self.merging.as_ref().and_then(Policy::agents)
    }

    fn parking(&self) -> Option<&Parking> {
        self.merging.as_ref().and_then(Policy::parking)
    }

    fn set_parking(&mut self, parking: Parking) {
        if let Some(merging) = &mut self.merging {
            merging.set_parking(parking);
        }
    }

    fn exits(&self) -> Option<&Exits> {
        Some(&self.exits)
    }
}

struct ExitingReducer<'a> {
    policy: &'a Exiting,
    merging: Option<Box<dyn TokenReducer + Sync + 'a>>,
    ends: Ends,
}

/// When images are answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// After the last block.
    Never,
    /// All in this one.
    In(usize),
    /// Where the answer would move by less than what is saved costs: the price of all the dense model's FLOPs, in nats.
    AtPrice(f64),
}

impl ExitingReducer<'_> {
    /// The exit that is asked in this block.
    fn exit_in(&self, layer: usize) -> Option<usize> {
        let is_asked = match self.ends {
            Ends::Never => false,
            Ends::In(block) => block == layer,
            Ends::AtPrice(_) => true,
        };
        self.policy.exits.index_of(layer).filter(|_| is_asked)
    }

    /// Which images are answered now. `keep` says which of their tokens are left.
    fn exit(
        &self,
        index: usize,
        heads: &Heads<'_>,
        observation: &Observation<'_>,
        keep: &[bool],
    ) -> Exit {
        let (policy, sequences) = (self.policy, observation.sequences);
        let agent = &policy.exits.agents[index];
        let tokens = first_tokens(observation, heads.tokens());
        let shifts: Vec<Tensor<2>> = tokens
            .iter()
            .map(|tokens| agent.shift(tokens.clone()))
            .collect();
        let slots: Vec<usize> = match self.ends {
            Ends::Never => Vec::new(),
            Ends::In(_) => (0..sequences.batch()).collect(),
            Ends::AtPrice(price) => {
                let foreseen = tokens.iter().zip(&shifts);
                let foreseen: Vec<Tensor<2>> = foreseen
                    .map(|(tokens, shift)| tokens.clone() + shift.clone())
                    .collect();
                let certainty = certainty(heads.answer(&foreseen).0, &shifts[0], heads);
                let harm = read(agent.harm(certainty));
                let price = price * blocks_saved(policy.layers, observation.layer)
                    / (policy.layers * policy.tokens) as f64;
                let ends = |slot: &usize| {
                    let rows = sequences.starts()[*slot]..sequences.starts()[slot + 1];
                    let left = rows.filter(|&row| keep[row] && sequences.visible()[row]);
                    f64::from(harm[*slot]) < (price * left.count() as f64).ln()
                };
                (0..sequences.batch()).filter(ends).collect()
            }
        };
        let shifts = shifts.into_iter().filter(|_| !slots.is_empty());
        let shifts = shifts.map(|shift| {
            let places = upload_places(slots.iter().copied(), &shift.device());
            shift.select(0, places)
        });
        Exit {
            shifts: shifts.collect(),
            slots,
        }
    }
}

impl TokenReducer for ExitingReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        let exit = self.exit_in(layer).map(|_| Placement::AfterAttention);
        exit.or_else(|| self.merging.as_ref()?.placement(layer))
    }

    fn needs(&self, layer: usize) -> Needs {
        let merging = self.merging.as_ref();
        let merging = merging.filter(|merging| merging.placement(layer).is_some());
        merging.map_or(Needs::default(), |merging| merging.needs(layer))
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        let merging = self.merging.as_ref();
        let by_image = merging.is_none_or(|merging| merging.by_image().is_some());
        by_image.then_some(self)
    }

    fn uniform(&self) -> Option<&dyn UniformReducer> {
        let merging = self.merging.as_ref().filter(|_| self.ends == Ends::Never);
        merging.and_then(|merging| merging.uniform())
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let layer = observation.layer;
        let merging = self.merging.as_ref();
        let merging = merging.filter(|merging| merging.placement(layer).is_some());
        let reduction = match merging {
            Some(merging) => merging.reduce(observation),
            None => Reduction::none(observation.sequences),
        };
        let (Some(index), Some(heads)) = (self.exit_in(layer), &observation.heads) else {
            return reduction;
        };
        let exit = self.exit(index, heads, observation, &reduction.keep);
        Reduction {
            exit: Some(exit),
            ..reduction
        }
    }
}

/// The first `count` tokens of the image in each slot, `[slots, hidden]` each.
pub fn first_tokens(observation: &Observation<'_>, count: usize) -> Vec<Tensor<2>> {
    let starts = observation.sequences.starts();
    let of = |place: usize| {
        let rows = starts[..starts.len() - 1].iter();
        let rows = upload_places(
            rows.map(|start| start + place),
            &observation.hidden.device(),
        );
        observation.hidden.clone().select(0, rows)
    };
    (0..count).map(of).collect()
}
