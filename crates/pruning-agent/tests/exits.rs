//! Images that end early: at a price, the same in every mode, alone and beside others, and counted.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use apt_pruning_agent::{AnyPolicy, PolicyConfig, Selection};
use apt_vit_model::{ExecutionMode, RunSettings, Vit, VitConfig, VitOutput, VitPreset, vit_flops};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor, Tolerance};

const BATCH: usize = 24;
/// Prices beyond what random agents foresee.
const LEAST: f64 = 1e-60;
const MOST: f64 = 1e60;

/// A policy whose agents say something else of every image.
struct Random;

impl ModuleMapper for Random {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.random_like(Distribution::Normal(0.0, 0.4)))
    }
}

fn model() -> (Vit, VitConfig, Tensor<4>) {
    let device = Device::default();
    device.seed(3);
    let config = VitPreset::Tiny32.config();
    let vit = config.init(&device).unwrap();
    let vit = vit.map_head(|weight| weight.random_like(Distribution::Normal(0.0, 1.0)));
    let images = Tensor::<4>::random([BATCH, 3, 32, 32], Distribution::Default, &device);
    // Some are darker than others.
    let light: Vec<f32> = (0..BATCH).map(|image| image as f32 / 6.0).collect();
    let light = Tensor::<1>::from_data(light.as_slice(), &device);
    let images = images * light.reshape([BATCH, 1, 1, 1]);
    (vit, config, images)
}

fn policy(name: &str, config: &VitConfig) -> AnyPolicy {
    let policy = PolicyConfig::named(name).unwrap();
    let policy = policy.init(config, &Device::default()).unwrap();
    policy.map(&mut Random)
}

fn run(
    vit: &Vit,
    policy: &AnyPolicy,
    images: Tensor<4>,
    mode: ExecutionMode,
    price: f64,
) -> VitOutput {
    let seeds = vec![0; images.dims()[0]];
    let reducer = policy.reducer(&policy.at_price(price), &seeds);
    let settings = RunSettings {
        mode,
        reducer: Some(&*reducer),
    };
    vit.forward(images, settings)
}

/// Images that are answered before the last block.
fn ended(output: &VitOutput) -> usize {
    let left = output.trace.last().unwrap().left.iter();
    left.filter(|&&left| left == 0).count()
}

/// A price at which some images end early, and others do not.
fn between(vit: &Vit, policy: &AnyPolicy, images: &Tensor<4>) -> f64 {
    let (mut low, mut high) = (LEAST, MOST);
    for _ in 0..100 {
        let price = f64::sqrt(low * high);
        match ended(&run(
            vit,
            policy,
            images.clone(),
            ExecutionMode::Drop,
            price,
        )) {
            0 => low = price,
            BATCH => high = price,
            _ => return price,
        }
    }
    panic!("all images are always alike");
}

#[test]
fn the_higher_the_price_the_more_images_end_early_and_modes_agree() {
    let (vit, config, images) = model();
    for name in ["early-exit", "apt-plus"] {
        let policy = policy(name, &config);
        let middle = between(&vit, &policy, &images);
        let flops = [LEAST, middle, MOST].map(|price| {
            let drop = run(&vit, &policy, images.clone(), ExecutionMode::Drop, price);
            let mask = run(&vit, &policy, images.clone(), ExecutionMode::Mask, price);
            let tolerance = Tolerance::<f32>::absolute(1e-3);
            let logits = drop.logits.clone().into_data();
            mask.logits.into_data().assert_approx_eq(&logits, tolerance);
            // What stands beside an image does not matter.
            let alone = images.clone().narrow(0, 5, 1);
            let alone = run(&vit, &policy, alone, ExecutionMode::Drop, price);
            let beside = drop.logits.clone().narrow(0, 5, 1).into_data();
            alone
                .logits
                .into_data()
                .assert_approx_eq(&beside, tolerance);
            let flops = (0..BATCH).map(|image| {
                vit_flops(&config, &drop.trace, image)
                    + policy.trace_flops(&config, &drop.trace, image)
            });
            (ended(&drop), flops.sum::<u64>())
        });
        assert_eq!((flops[0].0, flops[2].0), (0, BATCH), "{name}");
        assert!(flops.windows(2).all(|pair| pair[0].1 > pair[1].1), "{name}");
    }
}

#[test]
fn without_a_price_exits_rest_and_with_counts_all_images_end_in_one_block() {
    let (vit, config, images) = model();
    let pairs = policy("apt-plus", &config);
    let kept = pairs.kept_for(&config, 0.7).unwrap();
    let reducer = pairs.reducer(&Selection::Kept { kept }, &[0; BATCH]);
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&*reducer),
    };
    let trace = vit.forward(images.clone(), settings).trace;
    assert!(
        trace
            .iter()
            .all(|entry| entry.left.iter().all(|&left| left > 1))
    );

    let exits = policy("early-exit", &config);
    let kept = exits.kept_for(&config, 0.8).unwrap();
    assert_eq!(kept, [64, 64, 64, 0]);
    let reducer = exits.reducer(&Selection::Kept { kept }, &[0; BATCH]);
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&*reducer),
    };
    let trace = vit.forward(images, settings).trace;
    assert_eq!((trace.len(), trace[0].layer), (1, exits.blocks()[3]));
    assert_eq!(trace[0].seen, [65; BATCH]);
    assert_eq!(trace[0].left, [0; BATCH]);
    for share in [0.1, 1.2, f64::NAN] {
        let error = exits.kept_for(&config, share).unwrap_err().to_string();
        assert!(error.contains(&share.to_string()), "{error}");
    }
}
