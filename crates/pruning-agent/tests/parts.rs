//! Batches that run in parts, each on a thread of its own, give what small batches give.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use apt_pruning_agent::{PolicyConfig, Selection, SelectionNoise, policies};
use apt_vit_model::{ExecutionMode, RunSettings, TokenReducer, VitOutput, VitPreset};
use burn::tensor::{Device, Distribution, Tensor, Tolerance};

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
    for entry in policies().iter().filter(|entry| entry.name != "dense") {
        let policy = PolicyConfig::named(entry.name).unwrap();
        let policy = policy.init(&model, &device).unwrap();
        let kept = policy.kept_for(&model, 0.6).unwrap();
        let selection = Selection::Kept { kept };
        let run = |images: Tensor<4>, seeds: &[u64]| {
            // Agents decide with noise, as in training.
            let noise = SelectionNoise {
                temperature: 1.0,
                seeds: seeds.to_vec(),
            };
            let reducer: Box<dyn TokenReducer + '_> = match policy.agents() {
                Some(agents) => agents.noisy_reducer(&selection, noise),
                None => policy.reducer(&selection, seeds),
            };
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
                    let row = |output: &VitOutput, image| output.logits.clone().narrow(0, image, 1);
                    let [all, few] = [row(&all, first + image), row(&few, image)];
                    let tolerance = Tolerance::<f32>::absolute(1e-4);
                    all.into_data()
                        .assert_approx_eq(&few.into_data(), tolerance);
                    alike += 1;
                }
            }
        }
        // Where two patches score alike, rounding may decide.
        assert!(alike >= 46, "{}: {alike} of 48", entry.name);
    }
}
