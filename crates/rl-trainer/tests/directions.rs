//! Every algorithm teaches a policy to keep the patch that matters, and with the reward flipped to remove it.
//!
//! The task: one patch of each image, anywhere, shows the class; all others are noise. A small model learns it, and is
//! frozen from then on. Its first block does nothing, so that a patch that a policy removes after it is lost. Its second
//! block has attention alone: behind an MLP, the slope of the answer at a removed patch, which DynamicViT follows, can have
//! the other sign than the patch's effect. Each figure is the mean over several models, since one model's start can decide it.
#![allow(clippy::unwrap_used, missing_docs)]

use apt_data::{Batch, Place};
use apt_inference::PruningVit;
use apt_pruning_agent::{Agents, AnyPolicy, PolicyConfig, Selection, TokenPredictor};
use apt_rl_trainer::algorithm::losses::{accuracy, cross_entropy};
use apt_rl_trainer::algorithm::{
    Algorithm, AlgorithmConfig, Pass, Recorder, Seeds, algorithm_entry, first_order,
};
use apt_rl_trainer::{OptimizerConfig, OptimizerKind, PolicySection, build_optimizer};
use apt_vit_model::{ExecutionMode, RunSettings, Vit, VitConfig, VitPreset};
use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, json};

/// Burn's random numbers belong to the process; tests take turns.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

const SIDE: usize = 16;
const PATCH: usize = 4;
const IMAGES: usize = 32;

/// Images, `[IMAGES, 3, SIDE, SIDE]`, their classes, and the patch that shows each.
fn images(number: u64, device: &Device) -> (Tensor<4>, Vec<usize>, Vec<usize>) {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let grid = SIDE / PATCH;
    let mut values = Vec::with_capacity(IMAGES * 3 * SIDE * SIDE);
    let (mut classes, mut places) = (Vec::new(), Vec::new());
    for _ in 0..IMAGES {
        let (class, place) = (rng.random_range(0..2), rng.random_range(0..grid * grid));
        for channel in 0..3 {
            for y in 0..SIDE {
                for x in 0..SIDE {
                    let here = (y / PATCH) * grid + x / PATCH == place;
                    // Red or blue, on grey noise.
                    let shown = if here && channel == 2 * class {
                        2.0
                    } else {
                        0.0
                    };
                    values.push(shown + rng.random_range(-0.3..0.3f32));
                }
            }
        }
        classes.push(class);
        places.push(place);
    }
    let data = TensorData::new(values, [IMAGES, 3, SIDE, SIDE]);
    (Tensor::from_data(data, device), classes, places)
}

fn adam(learning_rate: f64) -> OptimizerConfig {
    OptimizerConfig {
        name: OptimizerKind::Adamw,
        learning_rate,
        ..Default::default()
    }
}

/// The starts of the models.
const MODELS: [u64; 3] = [4, 5, 6];

/// A model that has learned the task.
fn model(seed: u64, device: &Device) -> (VitConfig, Vit) {
    device.seed(seed);
    let config = VitConfig {
        image_size: apt_vit_model::ImageSize::square(SIDE),
        patch_size: PATCH,
        hidden_size: 24,
        num_layers: 2,
        num_heads: 2,
        mlp_dim: 32,
        num_classes: 2,
        dropout: 0.0,
        ..VitPreset::Tiny32.config()
    };
    let mut vit = config.init(device).unwrap();
    let nothing = |param: Param<Tensor<2>>| param.map(|weight| weight.zeros_like());
    vit.blocks[0].attention.output.weight = nothing(vit.blocks[0].attention.output.weight.clone());
    vit.blocks[0].mlp.contract.weight = nothing(vit.blocks[0].mlp.contract.weight.clone());
    vit.blocks[0] = vit.blocks[0].clone().freeze();
    vit.blocks[1].mlp.contract.weight = nothing(vit.blocks[1].mlp.contract.weight.clone());
    vit.blocks[1].mlp = vit.blocks[1].mlp.clone().freeze();
    let mut optimizer = build_optimizer(&adam(0.0), &vit);
    for step in 0..250 {
        let (images, classes, _) = images(step, device);
        let logits = vit.forward(images, RunSettings::DENSE).logits;
        let gradients = cross_entropy(logits, &classes).backward();
        let gradients = GradientsParams::from_grads(gradients, &vit);
        vit = optimizer.step(3e-3, vit, gradients);
    }
    let (test, classes, _) = images(10_000, device);
    let logits = vit.valid().forward(test.inner(), RunSettings::DENSE).logits;
    assert!(
        accuracy(&logits, &classes) > 0.95,
        "the model did not learn the task"
    );
    // An answer that is too sure has no gradients.
    let vit = vit.map_head(|weight| weight * 0.4);
    (config, vit.freeze())
}

/// How much rather the policy keeps the patch that matters than the mean of the others.
fn preference(vit: &Vit, policy: &AnyPolicy, device: &Device) -> f32 {
    let (images, _, places) = images(20_000, device);
    let policy = policy.valid();
    let recorder = Recorder::new(policy.reducer(&Selection::All, &[]));
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&recorder),
    };
    vit.valid().forward(images.inner(), settings);
    let decision = &recorder.into_decisions()[0];
    let agents = policy.agents().unwrap();
    let logits: Vec<f32> = agents
        .logits(0, &decision.observation())
        .into_data()
        .iter::<f32>()
        .collect();
    // Of pairs, only every other patch may go; the others have no score.
    let scores: Vec<f32> = logits.chunks(2).map(|pair| pair[0] - pair[1]).collect();
    let tokens = decision.sequences.tokens_per_image();
    let (mut matters, mut others) = ((0.0, 0.0), (0.0, 0.0));
    for (image, place) in places.into_iter().enumerate() {
        for patch in 0..tokens - 1 {
            let score = scores[image * tokens + 1 + patch];
            if score == 0.0 {
                continue;
            }
            let sum = if patch == place {
                &mut matters
            } else {
                &mut others
            };
            sum.0 += score;
            sum.1 += 1.0;
        }
    }
    matters.0 / matters.1 - others.0 / others.1
}

/// How much rather policies keep the patch that matters: means over [`MODELS`].
#[derive(Debug, Default)]
struct Preferences {
    before: f32,
    learned: f32,
    flipped: f32,
}

impl Preferences {
    /// `learn` gives the preference before and after learning; told so, with the reward flipped.
    fn add(&mut self, learn: impl Fn(bool) -> (f32, f32)) {
        let ((before, learned), (_, flipped)) = (learn(false), learn(true));
        let share = 1.0 / MODELS.len() as f32;
        self.before += before * share;
        self.learned += learned * share;
        self.flipped += flipped * share;
    }

    /// Learning prefers the patch that matters by `least`, and flipped it does the opposite.
    fn assert_direction(&self, least: f32, name: &str) {
        let Self {
            before,
            learned,
            flipped,
        } = self;
        eprintln!("{name}: {before:.2} before, {learned:.2} after, {flipped:.2} flipped");
        assert!(*learned > least, "{name}: {self:?}");
        assert!(
            *flipped < 0.0 && flipped < before && *flipped < learned - 1.0,
            "{name}: {self:?}"
        );
    }
}

struct Learner<'a> {
    config: &'a VitConfig,
    vit: &'a Vit,
    policy: AnyPolicy,
    algorithm: Box<dyn Algorithm>,
    device: Device,
}

impl Learner<'_> {
    /// Learns for so many steps; with the reward flipped, of the other class.
    fn learn(mut self, steps: u64, flipped: bool) -> AnyPolicy {
        let plain = self.device.clone().inner();
        let critic = self.algorithm.critic(self.config.hidden_size);
        let critics = critic.map(|critic| critic.init(&self.device));
        let mut critics: Vec<TokenPredictor> = critics.into_iter().collect();
        let mut of_critics = build_optimizer(&adam(0.0), &critics);
        let mut optimizer = build_optimizer(&adam(0.0), &self.policy);
        let kept = self.policy.kept_for(self.config, 0.75).unwrap();
        let selection = Selection::Kept { kept };
        for step in 0..steps {
            let (images, classes, _) = images(step, &self.device);
            let targets: Vec<usize> = classes
                .into_iter()
                .map(|class| if flipped { 1 - class } else { class })
                .collect();
            let batch = Batch {
                images: images.clone(),
                labels: Tensor::zeros([IMAGES], &plain),
                targets: targets.clone(),
                indices: (0..IMAGES).collect(),
                place: Place {
                    number: step,
                    part: 0..IMAGES,
                    whole: IMAGES,
                },
            };
            let frozen =
                PruningVit::new(self.vit.valid(), self.policy.valid(), self.config.clone());
            let seeds = Seeds::new(1, &batch);
            let pass = Pass {
                vit: self.vit,
                agents: self.policy.agents().unwrap(),
                critics: &critics,
                frozen: &frozen,
                selection: &selection,
                is_dense: false,
                images: images.clone(),
                targets: &targets,
                seeds: &seeds,
                part: 0,
                slot: 0,
            };
            let lesson = self.algorithm.begin(&pass);
            let mut losses = Vec::new();
            if let Some((mode, reducer)) = lesson.own_pass() {
                let reducer = Some(reducer);
                let output = self.vit.forward(images, RunSettings { mode, reducer });
                losses.push(cross_entropy(output.logits, &targets));
                losses.extend(lesson.loss_beside_the_models());
            }
            let sum = |losses: Vec<Tensor<1>>| losses.into_iter().reduce(|a, b| a + b);
            let own = sum(losses).map(|loss| loss.backward());
            let learned = lesson.losses(own.as_ref(), 1.0);
            let of_policy = sum(learned.of_blocks).map(|loss| loss.backward());
            // What an algorithm teaches comes through its own losses, or through the model's.
            if let Some(mut gradients) = of_policy.or(own) {
                let own = GradientsParams::from_module(&mut gradients, &self.policy);
                self.policy = optimizer.step(3e-3, self.policy, own);
                let own = GradientsParams::from_module(&mut gradients, &critics);
                critics = of_critics.step(3e-3, critics, own);
            }
        }
        self.policy
    }
}

#[test]
fn the_patch_that_matters_is_kept_and_with_the_reward_flipped_it_is_not() {
    let _alone = alone();
    let device = Device::default().autodiff();
    let models = MODELS.map(|seed| model(seed, &device));
    for (policy, algorithm, steps) in [
        ("apt", "counterfactual", 150),
        ("attentive", "policy-gradient", 150),
        ("attentive", "ppo", 150),
        ("dynamic-vit", "dynamic-vit", 100),
    ] {
        let settings = Map::from_iter([("layers".to_string(), json!([0]))]);
        let policy_config = PolicyConfig::with_settings(policy, settings).unwrap();
        let section = PolicySection::named(policy).unwrap();
        assert!(section.policy.entry().algorithms.contains(&algorithm));
        let algorithm_config = AlgorithmConfig::with_settings(algorithm, Map::new()).unwrap();
        let mut preferences = Preferences::default();
        for (config, vit) in &models {
            preferences.add(|flipped| {
                device.seed(9);
                let learner = Learner {
                    config,
                    vit,
                    policy: policy_config.init(config, &device).unwrap(),
                    algorithm: algorithm_config.init().unwrap(),
                    device: device.clone(),
                };
                let before = preference(vit, &learner.policy, &device);
                let after = preference(vit, &learner.learn(steps, flipped), &device);
                (before, after)
            });
        }
        let least = preferences.before.max(0.0) + 0.5;
        preferences.assert_direction(least, &format!("{policy}, {algorithm}"));
    }
}

/// First-order effects have no sign for their agents: the patch without which the answer moves most is kept, whichever
/// way it moves. Flipped, the patch with the least effect is the one with the largest. `attentive` starts from CLS's
/// attention, which prefers that patch about as much as its effect says already: it learns to keep doing so.
#[test]
fn the_patch_with_the_largest_effect_is_kept_and_with_effects_flipped_it_is_not() {
    let _alone = alone();
    let device = Device::default().autodiff();
    let models = MODELS.map(|seed| model(seed, &device));
    for policy in ["attentive", "pairs"] {
        let settings = Map::from_iter([("layers".to_string(), json!([0]))]);
        let policy_config = PolicyConfig::with_settings(policy, settings).unwrap();
        let mut preferences = Preferences::default();
        for (config, vit) in &models {
            preferences.add(|flipped| {
                device.seed(9);
                let policy = policy_config.init(config, &device).unwrap();
                let before = preference(vit, &policy, &device);
                let learned = learn_effects(vit, policy, flipped, &device);
                (before, preference(vit, &learned, &device))
            });
        }
        preferences.assert_direction(0.25, policy);
    }
}

/// A policy that has learned first-order effects.
fn learn_effects(vit: &Vit, mut policy: AnyPolicy, flipped: bool, device: &Device) -> AnyPolicy {
    let mut optimizer = build_optimizer(&adam(0.0), &policy);
    for step in 0..300 {
        let (images, targets, _) = images(step, device);
        let frozen = policy.valid();
        let removal = policy.agents().unwrap().removal();
        let reducer = frozen.reducer(&Selection::All, &[]);
        let probe = first_order::Probe::new(reducer, removal, device.clone());
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(&probe),
        };
        let logits = vit.forward(images, settings).logits;
        let gradients = cross_entropy(logits, &targets).backward();
        let mut rewards = probe.rewards(&gradients, 1.0);
        let of_tokens = rewards.iter_mut().flat_map(|(_, rewards)| rewards);
        for reward in of_tokens.flatten().filter(|_| flipped) {
            *reward = 1e-6 / (reward.abs() + 1e-6);
        }
        let agents: &dyn Agents = policy.agents().unwrap();
        let losses = first_order::losses(agents, &rewards);
        let loss = losses.into_iter().reduce(|a, b| a + b).unwrap();
        let gradients = GradientsParams::from_grads(loss.backward(), &policy);
        policy = optimizer.step(5e-3, policy, gradients);
    }
    policy
}

#[test]
fn every_algorithm_has_a_direction_here() {
    let tested = [
        "counterfactual",
        "first-order",
        "policy-gradient",
        "ppo",
        "dynamic-vit",
    ];
    for entry in apt_rl_trainer::algorithm::algorithms() {
        assert!(
            tested.contains(&entry.name),
            "{}: test its direction",
            entry.name
        );
        algorithm_entry(entry.name).unwrap();
    }
}
