//! DynamicViT (Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification",
//! 2021): the model's own loss teaches the agents, through decisions that are hard forwards and soft backwards
//! (Gumbel-softmax, section 3.2), and a second loss holds the share of tokens that stay (section 3.4).
//!
//! Two things differ from the paper. The agents' input carries no gradient into the model, as everywhere
//! here. And one training serves several budgets: before a decision, the scores of a batch are shifted by what
//! makes the budget's share stay in the mean.

use std::cell::RefCell;

use apt_pruning_agent::{Agents, Meaning, Policy, counted_flops};
use apt_vit_model::{
    ExecutionMode, FlopsCount, Needs, Observation, Placement, Reduction, RunSettings, TokenReducer,
    VitConfig, vit_flops,
};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Gradients, IndexingUpdateOp};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::entry::AlgorithmSettings;
use super::lesson::{Algorithm, Lesson, Pass, PolicyLosses, Purpose};
use super::losses::{cross_entropy, value};
use super::settings::{TEMPERATURE, temperature};

/// Settings of `DynamicVit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicVitSettings {
    /// Of the noise on decisions.
    pub temperature: f32,
}

impl Default for DynamicVitSettings {
    fn default() -> Self {
        Self { temperature: 1.0 }
    }
}

impl AlgorithmSettings for DynamicVitSettings {
    const NAME: &'static str = "dynamic-vit";
    const SUMMARY: &'static str = "the model's own loss teaches the agents through relaxed decisions (Gumbel-softmax; Rao et al., 2021)";
    const MEANINGS: &'static [Meaning] = &[TEMPERATURE];
    const LEARNS_FROM_BACKWARD: bool = true;

    fn init(&self) -> Result<Box<dyn Algorithm>, String> {
        Ok(Box::new(DynamicVit {
            temperature: temperature(self.temperature)?,
        }))
    }
}

/// Learning through relaxed decisions.
#[derive(Debug)]
struct DynamicVit {
    temperature: f32,
}

impl Algorithm for DynamicVit {
    fn loss_weight(&self) -> f32 {
        1.0
    }

    fn begin<'a>(&'a self, pass: &'a Pass<'a>) -> Box<dyn Lesson + 'a> {
        let reducer = SoftReducer {
            agents: pass.agents,
            blocks: pass.frozen.policy.blocks(),
            kept: pass.selection.kept(),
            seeds: pass.seeds.of(Purpose::Policy, 0),
            temperature: self.temperature,
            staying: RefCell::default(),
            ratio_losses: RefCell::default(),
        };
        Box::new(SoftPass { pass, reducer })
    }

    /// What the relaxed pass computes beyond a pruned one: nothing is removed in it, and it goes backward, too.
    fn flops(&self, model: &VitConfig, policy: &dyn Policy, share: f64) -> FlopsCount {
        let all = vec![model.num_patches(); policy.blocks().len()];
        let [dense, agents] = counted_flops(policy, model, &all);
        let kept = policy.kept_for(model, share).unwrap_or(all);
        let [pruned, own] = counted_flops(policy, model, &kept);
        3 * (dense - pruned) + agents - own + 3 * agents
    }
}

/// A pass with relaxed decisions. It is the model's own; where that one is dense, it runs beside it through the model as
/// it is, so that the agents learn without acting.
struct SoftPass<'a> {
    pass: &'a Pass<'a>,
    reducer: SoftReducer<'a>,
}

impl Lesson for SoftPass<'_> {
    fn own_pass(&self) -> Option<(ExecutionMode, &dyn TokenReducer)> {
        // Nobody is hidden or dropped: the mask alone says who is attended to.
        (!self.pass.is_dense).then_some((ExecutionMode::Mask, &self.reducer as _))
    }

    fn loss_beside_the_models(&self) -> Option<Tensor<1>> {
        self.reducer.ratio_loss()
    }

    fn losses(self: Box<Self>, _: Option<&Gradients>, _: f32) -> PolicyLosses {
        let Self { pass, reducer } = *self;
        let (model, policy) = (pass.frozen.config(), &pass.frozen.policy);
        let tokens = model.num_tokens();
        let agents = policy
            .blocks()
            .iter()
            .map(|_| 3 * policy.flops(model, tokens, tokens));
        let mut losses = PolicyLosses {
            flops: agents.sum::<u64>() as f64,
            ..Default::default()
        };
        if pass.is_dense {
            let settings = RunSettings {
                mode: ExecutionMode::Mask,
                reducer: Some(&reducer),
            };
            // Its weights are constants: the gradient goes through it to the agents.
            let still = pass.vit.clone().no_grad();
            let logits = still.forward(pass.images.clone(), settings).logits;
            losses.of_blocks = vec![cross_entropy(logits, pass.targets)];
            losses.of_blocks.extend(reducer.ratio_loss());
            losses.flops += 3.0 * vit_flops(model, &[], 0) as f64;
        }
        if let Some(loss) = reducer.ratio_loss() {
            losses.values.insert("ratio_loss".into(), value(&loss));
        }
        losses
    }
}

/// The weight of the second loss (section 3.4).
const RATIO_WEIGHT: f32 = 2.0;

/// Relaxed decisions.
struct SoftReducer<'a> {
    /// Those that learn.
    agents: &'a dyn Agents,
    blocks: &'a [usize],
    /// How many patches are to stay after each block.
    kept: &'a [usize],
    /// One for each image.
    seeds: Vec<u64>,
    temperature: f32,
    /// Per row: is it still there?
    staying: RefCell<Option<Vec<bool>>>,
    ratio_losses: RefCell<Vec<Tensor<1>>>,
}

impl SoftReducer<'_> {
    fn index_of(&self, layer: usize) -> Option<usize> {
        self.blocks.iter().position(|&acting| acting == layer)
    }

    /// How far the shares that stay are from those wanted, weighed, `[1]`; none before it decided.
    fn ratio_loss(&self) -> Option<Tensor<1>> {
        let losses = self.ratio_losses.borrow();
        let sum = losses.iter().cloned().reduce(|sum, loss| sum + loss)?;
        Some(sum * (RATIO_WEIGHT / losses.len() as f32))
    }
}

impl TokenReducer for SoftReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.index_of(layer).map(|_| Placement::AfterBlock)
    }

    fn needs(&self, layer: usize) -> Needs {
        self.agents.needs(layer)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let wanted = self.index_of(observation.layer);
        let Some((index, &kept)) = wanted.and_then(|index| Some((index, self.kept.get(index)?)))
        else {
            return Reduction::none(sequences);
        };
        let (rows, tokens, prefix) = (
            sequences.num_rows(),
            sequences.tokens_per_image(),
            sequences.prefix(),
        );
        let device = observation.hidden.device();
        let logits = self.agents.logits(index, observation);
        let scores = logits.clone().narrow(1, 0, 1) - logits.clone().narrow(1, 1, 1);
        let scores: Tensor<1> = scores.flatten(0, 1);
        let values: Vec<f32> = scores.to_data().iter::<f32>().collect();

        let mut staying = self.staying.borrow_mut();
        let before = staying.take().unwrap_or_else(|| vec![true; rows]);
        let is_patch = |row: usize| row % tokens >= prefix;
        let asked: Vec<usize> = (0..rows)
            .filter(|&row| is_patch(row) && before[row])
            .collect();
        let of_asked: Vec<f32> = asked.iter().map(|&row| values[row]).collect();
        let shift = shift_for(&of_asked, kept * sequences.batch());

        // Hard forwards, soft backwards; the noise is the difference of two of Gumbel's.
        let mut noise = vec![0.0f32; rows];
        for slot in 0..sequences.batch() {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seeds[sequences.image(slot)]);
            rng.set_stream(observation.layer as u64);
            for value in &mut noise[slot * tokens..(slot + 1) * tokens] {
                let uniform = rng.random_range(1e-6..1.0f32 - 1e-6);
                *value = (uniform / (1.0 - uniform)).ln() + shift;
            }
        }
        let noise = Tensor::<1>::from_data(noise.as_slice(), &device);
        let soft = sigmoid((scores + noise) / self.temperature);
        let hard = soft.clone().without_autodiff().greater_elem(0.5).float();
        let decided = soft.clone() + (hard.clone() - soft.without_autodiff());
        let asked_mask: Vec<f32> = (0..rows)
            .map(|row| f32::from(u8::from(is_patch(row) && before[row])))
            .collect();
        let asked_mask = Tensor::<1>::from_data(asked_mask.as_slice(), &device);
        // CLS stays, and what is gone is gone by the mask of before.
        let mask = decided.clone() * asked_mask.clone() + (asked_mask.clone() * -1.0 + 1.0);

        let images = sequences.batch();
        let slots: Vec<i64> = (0..rows).map(|row| (row / tokens) as i64).collect();
        let slots = Tensor::<1, Int>::from_data(slots.as_slice(), &device);
        let zeros = Tensor::<1>::zeros([images], &device);
        let counts = zeros.select_assign(0, slots, decided * asked_mask, IndexingUpdateOp::Add);
        let patches = tokens - prefix;
        let shares = counts / patches as f32;
        let ratio = kept as f32 / patches as f32;
        self.ratio_losses
            .borrow_mut()
            .push((shares - ratio).square().mean());

        let hard: Vec<f32> = hard.into_data().iter::<f32>().collect();
        let after = before.iter().enumerate();
        let after = after.map(|(row, &before)| before && (!is_patch(row) || hard[row] > 0.5));
        *staying = Some(after.collect());
        Reduction {
            mask: Some(mask),
            logits: Some(logits),
            ..Reduction::none(sequences)
        }
    }
}

/// What has to be added to all scores so that their probabilities of staying sum to `count`.
fn shift_for(scores: &[f32], count: usize) -> f32 {
    let expected = |shift: f32| -> f32 {
        let stays = |&score: &f32| 1.0 / (1.0 + (-(score + shift)).exp());
        scores.iter().map(stays).sum()
    };
    let (mut low, mut high) = (-30.0f32, 30.0f32);
    for _ in 0..30 {
        let middle = (low + high) / 2.0;
        if expected(middle) < count as f32 {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_makes_as_many_stay_in_the_mean_as_are_wanted() {
        let scores = [-2.0, 0.3, 1.0, 4.0];
        let shift = shift_for(&scores, 2);
        let expected: f32 = scores
            .iter()
            .map(|score| 1.0 / (1.0 + (-(score + shift)).exp()))
            .sum();
        assert!((expected - 2.0).abs() < 1e-3, "{expected}");
    }
}
