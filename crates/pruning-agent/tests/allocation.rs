//! Images that are allocated different amounts of compute.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::sync::{Mutex, MutexGuard};

use apt_pruning_agent::{AnyPolicy, Budgeting, Exploration, Gates, Selection};
use apt_vit_model::{ExecutionMode, RunSettings, Vit, VitConfig, VitOutput, VitPreset, vit_flops};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, Tolerance};

const IMAGES: usize = 12;

/// Tests that run at the same time draw from the same device: they take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A small model, and gates that tell images apart, though nobody taught them to do so well.
fn allocating() -> (VitConfig, Vit, Gates, Tensor<4>) {
    let device = Device::default();
    device.seed(5);
    let model = VitConfig {
        hidden_size: 32,
        num_heads: 2,
        mlp_dim: 64,
        ..VitPreset::Tiny32.config()
    };
    let vit = model.init(&device).unwrap();
    let images = Tensor::random([IMAGES, 3, 32, 32], Distribution::Default, &device);
    // The lower part of each is black, of one more than of the other.
    let rows = (0..IMAGES).flat_map(|image| (0..32).map(move |row| row < 2 * (image + 2)));
    let rows: Vec<f32> = rows.map(|shown| f32::from(u8::from(shown))).collect();
    let rows = Tensor::<1>::from_data(rows.as_slice(), &device);
    let images: Tensor<4> = images * rows.reshape([IMAGES, 1, 32, 1]);
    let mut gates = Gates::init(&model, &device).unwrap();
    let exploration = Exploration::new(gates.tree(), 0);
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(exploration.reducer()),
    };
    vit.forward(images.clone(), settings);
    let seen: Vec<_> = (0..gates.gates.len())
        .map(|point| exploration.seen_at(point))
        .collect();
    for (gate, seen) in gates.gates.iter_mut().zip(seen) {
        let random =
            |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (output, [nodes, features]) = (gate.output.weight.dims(), gate.scale.dims());
        gate.output.weight = gate.output.weight.clone().map(|_| random(output));
        // What the images have in common tells nothing apart.
        let flat: Vec<f32> = seen.concat();
        let seen = Tensor::<1>::from_data(flat.as_slice(), &device).reshape([IMAGES, features]);
        let (variance, mean) = seen.var_mean(0);
        let set = |values: Tensor<2>| values.repeat_dim(0, nodes);
        gate.center = gate.center.clone().map(|_| set(mean));
        gate.scale = gate
            .scale
            .clone()
            .map(|_| set((variance + 1e-8).sqrt().recip().clamp(0.0, 1e3)));
    }
    (model, vit, gates, images)
}

fn run(vit: &Vit, policy: &AnyPolicy, images: Tensor<4>, mode: ExecutionMode) -> VitOutput {
    let seeds: Vec<u64> = (0..IMAGES as u64).collect();
    let reducer = policy.reducer(&Selection::Price { price: 0.01 }, &seeds);
    let settings = RunSettings {
        mode,
        reducer: Some(&*reducer),
    };
    vit.forward(images, settings)
}

#[test]
fn mask_and_drop_give_the_same_logits_where_images_keep_different_numbers() {
    let _alone = alone();
    let (_, vit, gates, images) = allocating();
    let policy = AnyPolicy::new(gates);
    let dropped = run(&vit, &policy, images.clone(), ExecutionMode::Drop);
    let masked = run(&vit, &policy, images, ExecutionMode::Mask);
    let left = |output: &VitOutput| output.trace.last().unwrap().left.clone();
    let mut counts = left(&dropped);
    assert_eq!(counts, left(&masked));
    counts.sort_unstable();
    counts.dedup();
    assert!(counts.len() > 2, "{counts:?}");
    let tolerance = Tolerance::<f32>::absolute(1e-4);
    let masked = masked.logits.into_data();
    dropped
        .logits
        .into_data()
        .assert_approx_eq(&masked, tolerance);
}

#[test]
fn an_image_gets_the_same_alone_as_among_others_and_computes_its_schedules_share() {
    let _alone = alone();
    let (model, vit, gates, images) = allocating();
    let shares = gates.shares().to_vec();
    let policy = AnyPolicy::new(gates);
    let together = run(&vit, &policy, images.clone(), ExecutionMode::Drop);
    for image in 0..IMAGES {
        let one = images.clone().narrow(0, image, 1);
        let alone = run(&vit, &policy, one, ExecutionMode::Drop);
        for (all, own) in together.trace.iter().zip(&alone.trace) {
            assert_eq!(all.left[image], own.left[0]);
        }
        let flops = vit_flops(&model, &together.trace, image)
            + policy.trace_flops(&model, &together.trace, image);
        let share = flops as f64 / vit_flops(&model, &[], 0) as f64;
        assert!(shares.iter().any(|of| (of - share).abs() < 1e-9), "{share}");
    }
}

#[test]
fn gates_that_nobody_taught_leave_as_much_of_every_image() {
    let _alone = alone();
    let device = Device::default();
    let model = VitPreset::Tiny32.config();
    let gates = Gates::init(&model, &device).unwrap();
    assert!(!gates.are_taught());
    let policy = AnyPolicy::new(gates);
    assert_eq!(policy.budgeting(), Budgeting::Counts);
    assert!(policy.num_params() > 0);
    let (_, _, gates, _) = allocating();
    let policy = AnyPolicy::new(gates);
    assert_eq!(policy.budgeting(), Budgeting::Allocation);
}
