use super::*;
use apt_pruning_agent::{FilterSettings, PairsSettings, PolicySettings};
use apt_vit_model::{ExecutionMode, RunSettings, Vit, VitPreset};
use burn::module::Module;
use burn::nn::LinearConfig;
use burn::tensor::Distribution;
use rand::SeedableRng;

use crate::algorithm::losses::cross_entropy;

/// One without and one with autodiff.
fn devices(seed: u64) -> (Device, Device) {
    let plain = Device::default();
    plain.seed(seed);
    let device = plain.clone().autodiff();
    (plain, device)
}

/// A model whose head says something: a fresh one does not, whatever the tokens are.
fn loud_model(device: &Device) -> (VitConfig, Vit) {
    let mut config = VitPreset::Tiny32.config();
    config.dropout = 0.0;
    let mut vit: Vit = config.init(device).unwrap();
    let head = LinearConfig::new(config.hidden_size, config.num_classes);
    vit.head = Some(head.init(device));
    (config, vit)
}

fn two_images(device: &Device) -> Tensor<4> {
    Tensor::random([2, 3, 32, 32], Distribution::Normal(0.0, 1.0), device)
}

/// Moves the two tokens of a pair towards their mean by a share of the way.
struct Moved {
    from: usize,
    into: usize,
    share: f32,
}

impl TokenReducer for Moved {
    fn placement(&self, layer: usize) -> Option<Placement> {
        (layer == 1).then_some(Placement::AfterAttention)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let hidden = &observation.hidden;
        let row = |row: usize| hidden.clone().narrow(0, row, 1);
        let half = (row(self.into) - row(self.from)) * (self.share / 2.0);
        let [rows, width] = hidden.dims();
        let shift = Tensor::<2>::zeros([rows, width], &hidden.device());
        let shift = shift.slice_assign([self.from..self.from + 1, 0..width], half.clone());
        Reduction {
            shift: Some(shift.slice_assign([self.into..self.into + 1, 0..width], -half)),
            ..Reduction::none(observation.sequences)
        }
    }
}

#[test]
fn the_reward_of_a_pair_is_what_the_loss_falls_by_on_the_way_to_its_mean() {
    let (plain, device) = devices(11);
    let (config, vit) = loud_model(&device);
    let settings = PairsSettings {
        layers: Some(vec![1]),
        ..Default::default()
    };
    let policy = settings.init(&config, &plain).unwrap();
    let acting = policy.reducer(&Selection::All, &[]);
    let images = two_images(&plain);
    let targets = [3, 7];
    let probe = Probe::new(acting, Removal::MergedInPairs, device.clone());
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&probe),
    };
    let logits = vit.forward(images.clone().autodiff(), settings).logits;
    let gradients = cross_entropy(logits, &targets).backward();
    let rewards = probe.rewards(&gradients, 1.0);
    let (decision, rewards) = &rewards[0];
    let pairs = matched_pairs(&decision.observation()).concat();
    assert_eq!(pairs.len(), 64);

    let frozen = vit.valid();
    let loss = |pair: &Pair, share: f32| -> f64 {
        let moved = Moved {
            from: pair.from,
            into: pair.into,
            share,
        };
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(&moved),
        };
        let logits = frozen.forward(images.clone(), settings).logits;
        cross_entropy(logits, &targets)
            .into_data()
            .iter::<f64>()
            .sum()
    };
    let largest = rewards
        .iter()
        .flatten()
        .fold(0.0f32, |most, reward| most.max(reward.abs()));
    assert!(largest > 1e-4);
    for pair in pairs.iter().step_by(7) {
        // The loss is the mean of two images.
        let found = 2.0 * (loss(pair, -0.05) - loss(pair, 0.05)) / 0.1;
        let expected = f64::from(rewards[pair.from].unwrap());
        assert!(
            (found - expected).abs() < 0.02 * f64::from(largest) + 2e-5,
            "{found} against {expected}"
        );
    }
}

/// Weighs tokens as keys after one block.
struct Weighed(Vec<f32>);

impl TokenReducer for Weighed {
    fn placement(&self, layer: usize) -> Option<Placement> {
        (layer == 1).then_some(Placement::AfterBlock)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let weights = Tensor::from_data(self.0.as_slice(), &observation.hidden.device());
        Reduction {
            mask: Some(weights),
            ..Reduction::none(observation.sequences)
        }
    }
}

#[test]
fn a_reward_in_a_coalition_is_what_the_loss_falls_by_there() {
    let (plain, device) = devices(12);
    let (config, vit) = loud_model(&device);
    let settings = FilterSettings {
        layers: Some(vec![1]),
        ..Default::default()
    };
    let policy = settings.init(&config, &plain).unwrap();
    let images = two_images(&plain);
    let targets = [3, 7];
    let probe = || {
        let acting = policy.reducer(&Selection::All, &[]);
        let probe = Probe::new(acting, Removal::Dropped, device.clone());
        probe.in_coalitions(ChaCha8Rng::seed_from_u64(5))
    };
    let tokens = config.num_tokens();
    let sequences = Sequences::full(2, tokens);
    let weights: Vec<f32> = probe().weights(&sequences).into_data().iter().collect();
    let left_out = weights.iter().filter(|&&weight| weight < 1.0).count();
    assert!((40..88).contains(&left_out), "{left_out} of 128");
    // CLS is in every coalition.
    assert_eq!([weights[0], weights[tokens]], [1.0; 2]);

    let probe = probe();
    let run = |vit: &Vit, images: Tensor<4>, reducer: &dyn TokenReducer| {
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(reducer),
        };
        cross_entropy(vit.forward(images, settings).logits, &targets)
    };
    let gradients = run(&vit, images.clone().autodiff(), &probe).backward();
    let rewards = probe.rewards(&gradients, 1.0);
    let (_, rewards) = &rewards[0];
    let frozen = vit.valid();
    let loss = |row: usize, moved: f32| -> f64 {
        let mut weights = weights.clone();
        weights[row] += moved;
        let loss = run(&frozen, images.clone(), &Weighed(weights));
        loss.into_data().iter::<f64>().sum()
    };
    let largest = rewards
        .iter()
        .flatten()
        .fold(0.0f32, |most, reward| most.max(reward.abs()));
    assert!(largest > 1e-4);
    for row in (1..tokens).step_by(5) {
        // The loss is the mean of two images.
        let found = 2.0 * (loss(row, 0.02) - loss(row, -0.02)) / 0.04;
        let expected = f64::from(rewards[row].unwrap());
        assert!(
            (found - expected).abs() < 0.05 * f64::from(largest) + 5e-5,
            "row {row}: {found} against {expected}"
        );
    }
}
