use apt_vit_model::{FlopsCount, Kept, LayerTrace, Placement, TokenReducer, VitConfig, vit_flops};
use serde::{Deserialize, Serialize};

use crate::{
    AgentError, ClsAttentionReducer, EvitReducer, Exploration, KeepRate, PruningAgents,
    RandomReducer, ScoredReducer, TomeReducer,
};

/// Who decides which tokens stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    /// Agents, which learn it.
    #[default]
    Agents,
    /// Chance.
    Random,
    /// CLS's attention: what it attends to most stays.
    ClsAttention,
    /// The same, and what goes becomes one token.
    Evit,
    /// Likeness: in every block, tokens that are most like others go into them.
    Tome,
}

/// What becomes of the patches that agents remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Merging {
    /// They are lost: published.
    #[default]
    Lost,
    /// Each goes into the kept patch that is most like it.
    Nearest,
    /// As in ToMe, every other patch may go, between attention and MLP, and into the one of the rest
    /// that is most like it; agents judge such pairs.
    Matched,
}

/// `[policy]`: who decides which tokens stay, and what becomes of the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// Who decides.
    pub kind: PolicyKind,
    /// What becomes of the patches that agents remove.
    pub merge: Merging,
    /// Agents leave the same number of patches in every image, instead of more where more is worth it.
    pub uniform: bool,
    /// Where agents judge pairs: how many of these merge in a block, relative to the block before. 1 is
    /// ToMe's constant number; below 1, more merge early, and more tokens are left at the end.
    pub taper: f64,
    /// Where agents judge pairs: one price of computing decides in which block and image pairs merge, instead
    /// of a number for each block.
    pub priced: bool,
}

impl Default for PolicyConfig {
    /// The published settings.
    fn default() -> Self {
        Self {
            kind: PolicyKind::Agents,
            merge: Merging::Lost,
            uniform: false,
            taper: 1.0,
            priced: false,
        }
    }
}

/// How much a policy removes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// What agents want removed with more than this probability: published.
    Threshold {
        /// The probability.
        threshold: f64,
    },
    /// What agents score below this at each of their layers.
    Scores {
        /// Per layer, the least log-odds of staying that stay.
        scores: Vec<f64>,
    },
    /// As much as leaves so many patches in each image after each layer.
    Kept {
        /// Per layer.
        kept: Vec<usize>,
    },
    /// As much as leaves so many patches in the mean of a batch's images after each layer; for agents
    /// alone, others take it as [`Kept`](Self::Kept).
    #[serde(skip)]
    KeptOfBatch {
        /// Per layer.
        kept: Vec<usize>,
    },
}

impl PolicyConfig {
    /// The policy as a reducer.
    ///
    /// `agents` say in which blocks it acts; `seeds` has one entry for each image of the batch, which
    /// chance draws from; `exploration` is the temperature of the noise on agents' scores in training.
    ///
    /// A policy without scores needs an amount that is counted; it keeps all with another.
    pub fn reducer<'a>(
        &self,
        agents: &'a PruningAgents,
        model: &VitConfig,
        amount: &Amount,
        seeds: &[u64],
        exploration: Option<f32>,
    ) -> Box<dyn TokenReducer + 'a> {
        let kept: &[usize] = match amount {
            Amount::Kept { kept } | Amount::KeptOfBatch { kept } => kept,
            _ => &[],
        };
        let blocks = self.blocks(agents, model);
        // The fused token of EViT is one more patch for the next layer.
        let fused = usize::from(self.kind == PolicyKind::Evit);
        let mut before = model.num_patches();
        let layers = blocks.iter().zip(kept).filter_map(|(&layer, &kept)| {
            let rate = KeepRate::new(kept as f64 / before as f64).ok();
            let all = before;
            before = if kept < before { kept + fused } else { before };
            rate.filter(|_| kept < all).map(|rate| (layer, rate))
        });
        let layers: Vec<(usize, KeepRate)> = match self.kind {
            PolicyKind::Agents | PolicyKind::Tome => Vec::new(),
            _ => layers.collect(),
        };
        match self.kind {
            PolicyKind::Agents => Box::new(ScoredReducer {
                agents,
                amount: amount.clone(),
                merge: self.merge,
                exploration: exploration.map(|temperature| Exploration {
                    temperature,
                    seeds: seeds.to_vec(),
                }),
            }),
            PolicyKind::Random => Box::new(RandomReducer {
                layers,
                seeds: seeds.to_vec(),
            }),
            PolicyKind::ClsAttention => Box::new(ClsAttentionReducer { layers }),
            PolicyKind::Evit => Box::new(EvitReducer { layers }),
            PolicyKind::Tome => {
                let mut before = model.num_patches();
                let layers = blocks.iter().zip(kept).map(|(&layer, &kept)| {
                    let count = before.saturating_sub(kept);
                    before = kept;
                    (layer, count)
                });
                Box::new(TomeReducer {
                    layers: layers.filter(|&(_, count)| count > 0).collect(),
                })
            }
        }
    }

    /// Does it merge pairs, so that at most half of the patches go in each block?
    fn halves(&self) -> bool {
        self.kind == PolicyKind::Tome
            || (self.kind == PolicyKind::Agents && self.merge == Merging::Matched)
    }

    /// The blocks (0-based) in which it acts: the agents', or for ToMe all but the last.
    pub fn blocks(&self, agents: &PruningAgents, model: &VitConfig) -> Vec<usize> {
        match self.kind {
            PolicyKind::Tome => (0..model.num_layers.saturating_sub(1)).collect(),
            _ => agents.layers.clone(),
        }
    }

    /// What the policy itself computes for image `image` of a batch it acted on.
    pub fn flops(
        &self,
        agents: &PruningAgents,
        model: &VitConfig,
        trace: &[LayerTrace],
        image: usize,
    ) -> FlopsCount {
        let (hidden, width) = (model.hidden_size, model.hidden_size / model.num_heads);
        let prefix = model.num_prefix_tokens();
        let of_entry = |entry: &LayerTrace| {
            let (seen, left) = (entry.seen[image], entry.left[image]);
            let (kept, removed) = (left - prefix, seen - left);
            match self.kind {
                PolicyKind::Random => 0,
                PolicyKind::ClsAttention => seen * hidden,
                PolicyKind::Evit => seen * hidden + removed * hidden,
                PolicyKind::Tome => {
                    let seekers = (seen - prefix) / 2;
                    seekers * (seen - prefix - seekers) * width + removed * hidden
                }
                PolicyKind::Agents => match self.merge {
                    Merging::Lost => 0,
                    Merging::Nearest => removed * (kept * width + hidden),
                    // The agents found the pairs.
                    Merging::Matched => removed * hidden,
                },
            }
        };
        let own: usize = trace.iter().map(of_entry).sum();
        let of_agents = match self.kind {
            PolicyKind::Agents => agents.flops(model, trace, image),
            _ => 0,
        };
        2 * own as u64 + of_agents
    }

    /// How many patches to leave after each of the policy's layers, so that the model and the policy compute
    /// `share` of the dense model's FLOPs, or as little below as tokens allow: everywhere the same share of
    /// what was left before; where pairs merge, in every block as many fewer (ToMe's section 4.1).
    ///
    /// # Errors
    ///
    /// Where so little or so much cannot be computed.
    pub fn kept_for(
        &self,
        agents: &PruningAgents,
        model: &VitConfig,
        share: f64,
    ) -> Result<Vec<usize>, AgentError> {
        let blocks = self.blocks(agents, model);
        let patches = model.num_patches();
        let share_of = |kept: &[usize]| self.counted_share(agents, model, &blocks, kept);
        let fits = |kept: &[usize]| share_of(kept) <= share + 1e-9;
        // So many go in all, at most; where ever fewer go, most of them in the first block.
        let taper = match self.kind {
            PolicyKind::Agents => self.taper,
            _ => 1.0,
        };
        let most = patches as f64 / 2.0 * weights(taper, blocks.len()).iter().sum::<f64>();
        let least = match self.halves() {
            true => fewer_in_each(patches, most, taper, blocks.len()),
            false => vec![1; blocks.len()],
        };
        let all = vec![patches; blocks.len()];
        if !fits(&least) || (share < 1.0 && fits(&all)) {
            return Err(AgentError::Share {
                share,
                least: share_of(&least),
                most: share_of(&all),
            });
        }
        let mut best = least;
        for step in 1..=1000 {
            let kept = match self.halves() {
                true => {
                    let total = most * (1000 - step) as f64 / 1000.0;
                    fewer_in_each(patches, total, taper, blocks.len())
                }
                false => chain(patches, step as f64 / 1000.0, blocks.len()),
            };
            if fits(&kept) {
                best = kept;
            }
        }
        // What rounding left over goes to the last layers, where a token costs least. No more than half of
        // the patches find another to go into.
        let halves = self.halves();
        let can_be = |kept: &[usize]| {
            let before = std::iter::once(&patches).chain(kept);
            let mut pairs = before.zip(kept);
            pairs.all(|(&before, &kept)| kept <= before && (!halves || kept >= before - before / 2))
        };
        for layer in (0..best.len()).rev() {
            loop {
                best[layer] += 1;
                if !can_be(&best) || !fits(&best) {
                    best[layer] -= 1;
                    break;
                }
            }
        }
        Ok(best)
    }

    /// The share of the dense FLOPs with so many patches after each of `blocks`.
    fn counted_share(
        &self,
        agents: &PruningAgents,
        model: &VitConfig,
        blocks: &[usize],
        kept: &[usize],
    ) -> f64 {
        let prefix = model.num_prefix_tokens();
        let mut seen = model.num_tokens();
        let entries = blocks.iter().zip(kept).map(|(&layer, &kept)| {
            let fused = self.kind == PolicyKind::Evit && kept + prefix < seen;
            let left = (kept + usize::from(fused) + prefix).min(seen);
            let entry = LayerTrace {
                layer,
                placement: match self.kind {
                    PolicyKind::Evit => Placement::AfterAttention,
                    _ if self.halves() => Placement::AfterAttention,
                    _ => Placement::AfterBlock,
                },
                seen: vec![seen],
                left: vec![left],
                kept: Kept::default(),
                logits: None,
            };
            seen = left;
            entry
        });
        let trace: Vec<LayerTrace> = entries.collect();
        let flops = vit_flops(model, &trace, 0) + self.flops(agents, model, &trace, 0);
        flops as f64 / vit_flops(model, &[], 0) as f64
    }
}

/// `rate` of what was left before, `layers` times.
fn chain(patches: usize, rate: f64, layers: usize) -> Vec<usize> {
    let mut left = patches as f64;
    let kept = (0..layers).map(|_| {
        left *= rate;
        (left.round() as usize).max(1)
    });
    kept.collect()
}

/// How many go in each of `layers` blocks, relative to the first.
fn weights(taper: f64, layers: usize) -> Vec<f64> {
    (0..layers).map(|layer| taper.powi(layer as i32)).collect()
}

/// `total` patches fewer after `layers` layers: in each `taper` times as many as in the one before, but no
/// more than half, since no more find another.
fn fewer_in_each(patches: usize, total: f64, taper: f64, layers: usize) -> Vec<usize> {
    let weights = weights(taper, layers);
    let each = total / weights.iter().sum::<f64>();
    let (mut left, mut gone, mut planned) = (patches, 0, 0.0);
    let kept = weights.iter().map(|weight| {
        planned += each * weight;
        // What rounding leaves over goes in the next block.
        let fewer = (planned.round() as usize).saturating_sub(gone);
        gone += fewer;
        left -= fewer.min(left / 2);
        left
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentNetwork, PruningAgentsConfig};
    use apt_vit_model::{ExecutionMode, RunSettings, VitOutput, VitPreset};
    use burn::tensor::{Device, Distribution, Tensor, Tolerance};

    const KINDS: [PolicyKind; 5] = [
        PolicyKind::Agents,
        PolicyKind::Random,
        PolicyKind::ClsAttention,
        PolicyKind::Evit,
        PolicyKind::Tome,
    ];

    #[test]
    fn every_policy_computes_the_share_it_is_told_and_counts_it_as_it_runs() {
        let device = Device::default();
        device.seed(2);
        let model = VitPreset::Tiny32.config();
        let vit = model.init(&device).unwrap();
        let layers = PruningAgentsConfig {
            layers: vec![0, 2],
            ..Default::default()
        };
        let agents = layers.init(model.hidden_size, model.num_layers, &device);
        let agents = agents.unwrap();
        let images = Tensor::<4>::random([2, 3, 32, 32], Distribution::Default, &device);
        for (kind, merge) in KINDS
            .map(|kind| (kind, Merging::Lost))
            .into_iter()
            .chain([Merging::Nearest, Merging::Matched].map(|merge| (PolicyKind::Agents, merge)))
        {
            let policy = PolicyConfig {
                kind,
                merge,
                ..Default::default()
            };
            for share in [0.8, 0.6, 0.45] {
                let kept = policy.kept_for(&agents, &model, share).unwrap();
                let amount = Amount::Kept { kept };
                let reducer = policy.reducer(&agents, &model, &amount, &[1, 2], None);
                let settings = RunSettings {
                    mode: ExecutionMode::Drop,
                    reducer: Some(&*reducer),
                };
                let trace = vit.forward(images.clone(), settings).trace;
                for image in 0..2 {
                    let flops = vit_flops(&model, &trace, image)
                        + policy.flops(&agents, &model, &trace, image);
                    let found = flops as f64 / vit_flops(&model, &[], 0) as f64;
                    assert!(found <= share + 1e-6, "{kind:?}: {found} for {share}");
                    assert!(share - found < 0.02, "{kind:?}: {found} for {share}");
                }
            }
        }
    }

    #[test]
    fn images_fare_alike_in_batches_that_run_in_parts_and_in_small_ones() {
        let device = Device::default();
        device.seed(6);
        let model = VitPreset::Tiny32.config();
        let vit = model.init(&device).unwrap();
        let images = Tensor::<4>::random([48, 3, 32, 32], Distribution::Default, &device);
        let seeds: Vec<u64> = (100..148).collect();
        let two = rayon::ThreadPoolBuilder::new().num_threads(2);
        let two = two.build().unwrap();
        let networks = [
            AgentNetwork::Interaction,
            AgentNetwork::Predictor,
            AgentNetwork::Hinted,
            AgentNetwork::Attentive,
        ];
        let of_agents = networks.map(|network| (PolicyKind::Agents, network, Merging::Nearest));
        let pair = (PolicyKind::Agents, AgentNetwork::Pair, Merging::Matched);
        let others = KINDS.map(|kind| (kind, AgentNetwork::Interaction, Merging::Lost));
        for (kind, network, merge) in of_agents.into_iter().chain([pair]).chain(others) {
            let layers = PruningAgentsConfig {
                layers: vec![0, 2],
                network,
                ..Default::default()
            };
            let agents = layers.init(model.hidden_size, model.num_layers, &device);
            let agents = agents.unwrap();
            let policy = PolicyConfig {
                kind,
                merge,
                ..Default::default()
            };
            let kept = policy.kept_for(&agents, &model, 0.6).unwrap();
            let amount = Amount::Kept { kept };
            let run = |images: Tensor<4>, seeds: &[u64]| {
                let reducer = policy.reducer(&agents, &model, &amount, seeds, Some(1.0));
                let settings = RunSettings {
                    mode: ExecutionMode::Drop,
                    reducer: Some(&*reducer),
                };
                vit.forward(images, settings)
            };
            let all = two.install(|| run(images.clone(), &seeds));
            let mut alike = 0;
            for first in (0..48).step_by(8) {
                let few = run(images.clone().narrow(0, first, 8), &seeds[first..first + 8]);
                for image in 0..8 {
                    let kept = |output: &VitOutput, image: usize| {
                        let layers = output.trace.iter();
                        layers
                            .map(|entry| entry.kept.read()[image].clone())
                            .collect::<Vec<_>>()
                    };
                    if kept(&all, first + image) == kept(&few, image) {
                        let row =
                            |output: &VitOutput, image| output.logits.clone().narrow(0, image, 1);
                        let [all, few] = [row(&all, first + image), row(&few, image)];
                        let tolerance = Tolerance::<f32>::absolute(1e-4);
                        all.into_data()
                            .assert_approx_eq(&few.into_data(), tolerance);
                        alike += 1;
                    }
                }
            }
            // Where two patches score alike, rounding may decide.
            assert!(alike >= 46, "{kind:?}, {network:?}: {alike} of 48");
        }
    }

    #[test]
    fn what_cannot_be_met_is_refused() {
        let device = Device::default();
        let model = VitPreset::Tiny32.config();
        let agents = PruningAgentsConfig {
            layers: vec![1],
            ..Default::default()
        };
        let agents = agents.init(model.hidden_size, model.num_layers, &device);
        let policy = PolicyConfig::default();
        let error = policy.kept_for(&agents.unwrap(), &model, 0.1).unwrap_err();
        assert!(error.to_string().contains("0.1"), "{error}");
    }

    #[test]
    fn amounts_survive_being_written_and_read() {
        for amount in [
            Amount::Threshold { threshold: 0.4 },
            Amount::Scores {
                scores: vec![0.25, -1.0],
            },
            Amount::Kept { kept: vec![9, 4] },
        ] {
            let text = serde_json::to_string(&amount).unwrap();
            let read: Amount = serde_json::from_str(&text).unwrap();
            assert_eq!(read, amount);
        }
    }
}
