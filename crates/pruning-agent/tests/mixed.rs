//! A batch whose images have different budgets gives each what it would get alone.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use apt_pruning_agent::{PolicyConfig, Selection, policies, reducer_of_each};
use apt_vit_model::{ExecutionMode, RunSettings, VitOutput, VitPreset};
use burn::tensor::{Device, Distribution, Tensor, Tolerance};

const BATCH: usize = 40;

#[test]
fn images_fare_alike_among_images_of_other_budgets_and_among_their_own() {
    let device = Device::default();
    device.seed(11);
    let model = VitPreset::Tiny32.config();
    let vit = model.init(&device).unwrap();
    // A fresh head answers zero to everything.
    let vit = vit.map_head(|weight| {
        let distribution = Distribution::Normal(0.0, 1.0);
        Tensor::random(weight.dims(), distribution, &weight.device())
    });
    let images = Tensor::<4>::random([BATCH, 3, 32, 32], Distribution::Default, &device);
    let seeds: Vec<u64> = (300..300 + BATCH as u64).collect();
    // With two threads, the batch runs in parts, which hold images of several budgets.
    let two = rayon::ThreadPoolBuilder::new().num_threads(2);
    let two = two.build().unwrap();
    for entry in policies().iter().filter(|entry| entry.name != "dense") {
        let policy = PolicyConfig::named(entry.name).unwrap();
        let policy = policy.init(&model, &device).unwrap();
        let kept = |share| Selection::Kept {
            kept: policy.kept_for(&model, share).unwrap(),
        };
        let known = [kept(0.8), Selection::All, kept(0.6)];
        let of_image: Vec<&Selection> = (0..BATCH).map(|image| &known[image % 3]).collect();
        let run = |images: Tensor<4>, selections: &[&Selection], seeds: &[u64]| {
            let reducer = reducer_of_each(&*policy, selections, seeds);
            let settings = RunSettings {
                mode: ExecutionMode::Drop,
                reducer: Some(&*reducer),
            };
            vit.forward(images, settings)
        };
        let mixed = two.install(|| run(images.clone(), &of_image, &seeds));
        let mut alike = 0;
        for (budget, selection) in known.iter().enumerate() {
            let own: Vec<usize> = (budget..BATCH).step_by(3).collect();
            let parts = own.iter().map(|&image| images.clone().narrow(0, image, 1));
            let parts = Tensor::cat(parts.collect(), 0);
            let own_seeds: Vec<u64> = own.iter().map(|&image| seeds[image]).collect();
            let alone = run(parts, &vec![selection; own.len()], &own_seeds);
            for (index, &image) in own.iter().enumerate() {
                let left = |output: &VitOutput, image: usize| {
                    let last = output.trace.last().unwrap();
                    last.kept.read()[image].clone()
                };
                if *selection == Selection::All {
                    assert!(
                        left(&mixed, image).iter().all(|kept| *kept),
                        "{}",
                        entry.name
                    );
                } else if left(&mixed, image) != left(&alone, index) {
                    continue;
                }
                let row = |output: &VitOutput, image| output.logits.clone().narrow(0, image, 1);
                let [mixed, alone] = [row(&mixed, image), row(&alone, index)];
                let tolerance = Tolerance::<f32>::absolute(1e-3);
                mixed
                    .into_data()
                    .assert_approx_eq(&alone.into_data(), tolerance);
                alike += 1;
            }
        }
        // Where two patches score alike, rounding may decide.
        assert!(alike >= BATCH - 2, "{}: {alike} of {BATCH}", entry.name);
    }
}
