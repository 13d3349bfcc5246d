//! The published implementation's numbers, reproduced: see `golden/README.md`.
//!
//! Runs on every folder under `$APT_GOLDEN` where that is set, else on the bundled ones.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../vit-model/tests/common/mod.rs"]
mod common;
#[path = "golden/fixture.rs"]
mod fixture;
#[path = "golden/gradients.rs"]
mod gradients;

use apt_pruning_agent::Policy;
use apt_rl_trainer::algorithm::counterfactual::cut_pass;
use apt_rl_trainer::pruned_pass;
use apt_vit_model::{ExecutionMode, Precision, RunSettings};
use burn::module::Module;

use fixture::{Golden, tolerance};
use gradients::{backbone_gradient, of_linear};

#[test]
fn golden_dense_logits() {
    for golden in Golden::all() {
        golden.check("dense.logits", golden.run(ExecutionMode::Dense).logits);
        golden.check("dense.logits", golden.dense_pass().logits);
    }
}

#[test]
fn golden_dense_logits_in_short_floats() {
    for mut golden in Golden::all() {
        for precision in [Precision::Bf16, Precision::F16] {
            let device = golden.device.clone();
            if !precision.is_supported(&device) {
                eprintln!("{device:?} has no {precision:?}");
                continue;
            }
            golden.vit = golden.vit.with_precision(precision);
            let output = golden.run(ExecutionMode::Dense);
            let logits: Vec<f64> = output.logits.into_data().iter::<f64>().collect();
            golden.check_within("dense.logits", &logits, tolerance(&device, precision));
            // With gradients, where the softmax is not fused.
            let output = golden.vit.forward(golden.images(), RunSettings::DENSE);
            let logits: Vec<f64> = output.logits.into_data().iter::<f64>().collect();
            golden.check_within("dense.logits", &logits, tolerance(&device, precision));
            // Rounded once, for inference.
            let packed = golden.vit.valid().prepack();
            let output = packed.forward(golden.images().inner(), RunSettings::DENSE);
            let logits: Vec<f64> = output.logits.into_data().iter::<f64>().collect();
            golden.check_within("dense.logits", &logits, tolerance(&device, precision));
        }
    }
}

#[test]
fn golden_mask_logits_keep_masks_and_agent_logits() {
    for golden in Golden::all() {
        let output = golden.run(ExecutionMode::Mask);
        golden.check("mask.logits", output.logits);
        assert_eq!(output.trace.len(), golden.layers.len());
        for entry in output.trace {
            let layer = entry.layer;
            let kept = entry.kept.read();
            let images = kept.len() as i32;
            let kept: Vec<f64> = kept.iter().flatten().map(|&kept| f64::from(kept)).collect();
            golden.check_values(&format!("mask.keep.{layer}"), &kept);
            let logits = entry.logits.unwrap().reshape([images, -1, 2]);
            golden.check(&format!("mask.agent_logits.{layer}"), logits);
        }
    }
}

#[test]
fn golden_drop_logits_and_token_counts() {
    for golden in Golden::all() {
        let output = golden.run(ExecutionMode::Drop);
        golden.check("drop.logits", output.logits);
        let images = golden.targets().len();
        let counts: Vec<f64> = (0..images)
            .flat_map(|image| {
                output
                    .trace
                    .iter()
                    .map(move |entry| entry.left[image] as f64)
            })
            .collect();
        golden.check_values("drop.tokens", &counts);
    }
}

#[test]
fn golden_mask_and_drop_agree_also_where_cls_stands_alone() {
    struct Scripted(Vec<Vec<Vec<bool>>>, Vec<usize>);
    impl apt_vit_model::TokenReducer for Scripted {
        fn placement(&self, layer: usize) -> Option<apt_vit_model::Placement> {
            self.1
                .contains(&layer)
                .then_some(apt_vit_model::Placement::AfterBlock)
        }
        fn reduce(&self, seen: &apt_vit_model::Observation<'_>) -> apt_vit_model::Reduction {
            let step = self
                .1
                .iter()
                .position(|&layer| layer == seen.layer)
                .unwrap();
            let slots = 0..seen.sequences.batch();
            let keep = slots.flat_map(|slot| {
                let image = &self.0[step][seen.sequences.image(slot)];
                let positions = seen.sequences.positions(slot).iter();
                positions
                    .map(|&position| image[position])
                    .collect::<Vec<_>>()
            });
            apt_vit_model::Reduction::keep(keep.collect())
        }
    }
    for golden in Golden::all() {
        let images = golden.targets().len();
        let tokens = golden.config.num_tokens();
        // Image 0 loses every patch at once, image 1 none, the others more and more.
        let keep = |step: usize, image: usize, token: usize| match image {
            0 => false,
            1 => true,
            _ => !(token + image).is_multiple_of(step + 2),
        };
        let steps = 0..golden.layers.len();
        let script = steps.map(|step| {
            let image = |image| (0..tokens).map(|token| keep(step, image, token)).collect();
            (0..images).map(image).collect()
        });
        let reducer = Scripted(script.collect(), golden.layers.clone());
        let run = |mode| {
            let settings = RunSettings {
                mode,
                reducer: Some(&reducer),
            };
            golden
                .vit
                .valid()
                .forward(golden.images().inner(), settings)
        };
        let (mask, drop) = (run(ExecutionMode::Mask), run(ExecutionMode::Drop));
        assert_eq!(drop.trace[0].left[0], 1);
        for (masked, dropped) in mask.trace.iter().zip(&drop.trace) {
            assert_eq!(masked.kept.read(), dropped.kept.read());
        }
        let difference = (mask.logits - drop.logits).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{}: {difference}", golden.name);
    }
}

#[test]
fn golden_pruned_pass_loss_and_gradients_masked_and_dropped() {
    for golden in Golden::all() {
        for mode in [ExecutionMode::Mask, ExecutionMode::Drop] {
            let agents = golden.agents.valid();
            let (images, targets) = (golden.images(), golden.targets());
            let reducer = agents.reducer(&golden.selection(), &[]);
            let pass = pruned_pass(&golden.vit, &*reducer, mode, images, &targets);
            golden.check("stream1.loss", pass.loss.clone());
            let grads = pass.loss.backward();
            let prefix = "stream1.grad.";
            let names = golden
                .expected
                .keys()
                .filter_map(|key| key.strip_prefix(prefix));
            let names: Vec<&str> = names.collect();
            assert!(!names.is_empty());
            for name in names {
                let gradient = backbone_gradient(&golden.vit, name, &grads);
                golden.check_values(&format!("{prefix}{name}"), &gradient);
            }
            // The hard decision carries no gradient into an agent.
            for agent in &golden.agents.agents {
                assert!(agent.fc.weight.val().grad(&grads).is_none());
            }
        }
    }
}

#[test]
fn golden_cut_pass_rewards_labels_losses_and_gradients() {
    for golden in Golden::all() {
        let (vit, targets) = (golden.vit.valid(), golden.targets());
        let dense = golden.dense_pass();
        for (index, observed) in dense.observed.iter().enumerate() {
            let (layer, agent) = (observed.layer, &golden.agents.agents[index]);
            let cuts = golden.indices(&format!("stream2.cut.{layer}"));
            let pass = cut_pass(&vit, &golden.agents, index, &dense, &cuts, &targets);
            let rewards: Vec<f64> = pass
                .rewards
                .iter()
                .map(|&reward| f64::from(reward))
                .collect();
            golden.check_values(&format!("stream2.reward.{layer}"), &rewards);
            assert_eq!(
                pass.labels,
                golden.indices(&format!("stream2.label.{layer}"))
            );
            golden.check(&format!("stream2.loss.{layer}"), pass.loss.clone());

            let grads = pass.loss.backward();
            let suffix = format!(".{layer}");
            let mut checked = 0;
            for key in golden.expected.keys() {
                let name = key.strip_prefix("stream2.grad.");
                let Some(name) = name.and_then(|name| name.strip_suffix(&suffix)) else {
                    continue;
                };
                let gradient = match name.split_once('.').unwrap() {
                    ("query", kind) => of_linear(&agent.query, kind, &grads),
                    ("key", kind) => of_linear(&agent.key, kind, &grads),
                    ("value", kind) => of_linear(&agent.value, kind, &grads),
                    ("fc", kind) => of_linear(&agent.fc, kind, &grads),
                    _ => panic!("no agent parameter is called {name}"),
                };
                golden.check_values(key, &gradient);
                checked += 1;
            }
            assert!(
                checked > 0,
                "{}: no agent gradients at layer {layer}",
                golden.name
            );
            // No gradient flows from an agent's loss into the model.
            assert!(
                golden.vit.blocks[0]
                    .mlp
                    .expand
                    .weight
                    .val()
                    .grad(&grads)
                    .is_none()
            );
        }
    }
}
