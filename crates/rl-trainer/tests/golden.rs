//! The published implementation's numbers, reproduced: see `golden/README.md`.
//!
//! Runs on every folder under `$APT_GOLDEN` where that is set, else on the bundled ones.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../vit-model/tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use apt_inference::PruningVit;
use apt_pruning_agent::{AnyPolicy, Apt, AptSettings, Policy, PolicySettings, Selection};
use apt_rl_trainer::algorithm::counterfactual::{DensePass, cut_pass, dense_pass};
use apt_rl_trainer::pruned_pass;
use apt_vit_model::{
    Activation, Checkpoint, CheckpointHead, ExecutionMode, ImageSize, Precision, RunSettings, Vit,
    VitConfig,
};
use burn::module::{Module, Param, ParamId};
use burn::prelude::*;
use burn::tensor::Gradients;
use safetensors::SafeTensors;

/// How far a backend may be from the published numbers, absolutely and relatively. In short floats
/// the model's own results alone are compared: a removal probability near the threshold decides
/// anew there.
fn tolerance(device: &Device, precision: Precision) -> f64 {
    let is_wgpu = format!("{device:?}").contains("Wgpu");
    match precision {
        // Shaders may compute exp, sqrt and division less precisely than the CPU does.
        Precision::F32 if is_wgpu => 3e-4,
        Precision::F32 => 1e-4,
        Precision::F16 => 5e-3,
        Precision::Bf16 => 4e-2,
        Precision::Int8 => 1e-1,
    }
}

struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

struct Golden {
    name: String,
    config: VitConfig,
    layers: Vec<usize>,
    threshold: f64,
    vit: Vit,
    agents: Apt,
    expected: HashMap<String, Array>,
    device: Device,
}

fn read_tensors(path: &Path) -> HashMap<String, Array> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let arrays = file.tensors().into_iter().map(|(name, view)| {
        let data = view.data();
        let values = match view.dtype() {
            safetensors::Dtype::F32 => data
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                .collect(),
            safetensors::Dtype::I64 => data
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
                .collect(),
            safetensors::Dtype::I32 => data
                .chunks_exact(4)
                .map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap())))
                .collect(),
            safetensors::Dtype::BOOL | safetensors::Dtype::U8 => {
                data.iter().map(|&b| f64::from(b)).collect()
            }
            other => panic!("{name}: element type {other:?}"),
        };
        let shape = view.shape().to_vec();
        (name.to_string(), Array { shape, values })
    });
    arrays.collect()
}

impl Golden {
    fn load(folder: &Path) -> Self {
        let device = common::device().autodiff();
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let size = |key: &str| json[key].as_u64().unwrap() as usize;
        let config = VitConfig {
            image_size: ImageSize::square(size("image_size")),
            patch_size: size("patch_size"),
            hidden_size: size("hidden_size"),
            num_layers: size("num_layers"),
            num_heads: size("num_heads"),
            mlp_dim: size("mlp_dim"),
            num_classes: size("num_classes"),
            layer_norm_eps: json["layer_norm_eps"].as_f64().unwrap(),
            dropout: 0.0,
            activation: Activation::Gelu,
            layer_scale: None,
            ..VitConfig::default()
        };
        let layers = json["agent_layers"].as_array().unwrap().iter();
        let layers: Vec<usize> = layers
            .map(|layer| layer.as_u64().unwrap() as usize)
            .collect();
        let threshold = json["threshold"].as_f64().unwrap();

        let vit = config.init(&device).unwrap();
        let vit = Checkpoint::open(&folder.join("vit.npz"))
            .unwrap()
            .load(vit, &config, CheckpointHead::Load, None)
            .unwrap();
        let agents = AptSettings {
            layers: Some(layers.clone()),
            threshold,
            ..Default::default()
        };
        let mut agents = agents.init(&config, &device).unwrap();
        let weights = read_tensors(&folder.join("agent.safetensors"));
        for (agent, layer) in agents.agents.iter_mut().zip(&layers) {
            for (part, linear) in [
                ("query", &mut agent.query),
                ("key", &mut agent.key),
                ("value", &mut agent.value),
                ("fc", &mut agent.fc),
            ] {
                let weight = &weights[&format!("agent.{layer}.{part}.weight")];
                let value = tensor::<2>(weight, &device).transpose();
                linear.weight = linear
                    .weight
                    .clone()
                    .transform_for_load(value, ParamId::new());
                let bias = tensor::<1>(&weights[&format!("agent.{layer}.{part}.bias")], &device);
                let old = linear.bias.take();
                linear.bias = old.map(|param| param.transform_for_load(bias, ParamId::new()));
            }
        }
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            expected: read_tensors(&folder.join("expected.safetensors")),
            config,
            layers,
            threshold,
            vit,
            agents,
            device,
        }
    }

    /// Every golden folder there is.
    fn all() -> Vec<Self> {
        let root = match std::env::var_os("APT_GOLDEN") {
            Some(root) => PathBuf::from(root),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        };
        let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)
            .unwrap_or_else(|error| panic!("{}: {error}", root.display()))
            .map(|entry| entry.unwrap().path())
            .chain([root.clone()])
            .filter(|path| path.join("config.json").is_file())
            .collect();
        folders.sort();
        assert!(!folders.is_empty(), "{}: no golden folder", root.display());
        folders.iter().map(|folder| Self::load(folder)).collect()
    }

    fn images(&self) -> Tensor<4> {
        tensor(&self.expected["images"], &self.device)
    }

    fn targets(&self) -> Vec<usize> {
        self.indices("labels")
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.expected[name]
            .values
            .iter()
            .map(|&value| value as usize)
            .collect()
    }

    fn run(&self, mode: ExecutionMode) -> apt_vit_model::VitOutput {
        let (vit, agents) = (self.vit.valid(), self.agents.valid());
        let reducer = agents.reducer(&self.selection(), &[]);
        let settings = RunSettings {
            mode,
            reducer: Some(&*reducer),
        };
        vit.forward(self.images().inner(), settings)
    }

    fn selection(&self) -> Selection {
        Selection::Threshold {
            threshold: self.threshold,
        }
    }

    fn dense_pass(&self) -> DensePass {
        let policy = AnyPolicy::new(self.agents.valid());
        let model = PruningVit::new(self.vit.valid(), policy, self.config.clone());
        dense_pass(&model, self.images().inner(), &self.targets())
    }

    fn check<const D: usize>(&self, name: &str, actual: Tensor<D>) {
        let array = &self.expected[name];
        assert_eq!(
            actual.dims().as_slice(),
            array.shape,
            "{}: shape of {name}",
            self.name
        );
        let actual: Vec<f64> = actual.into_data().iter::<f64>().collect();
        self.check_values(name, &actual);
    }

    /// In 32-bit floats.
    fn check_values(&self, name: &str, actual: &[f64]) {
        self.check_within(name, actual, tolerance(&self.device, Precision::F32));
    }

    fn check_within(&self, name: &str, actual: &[f64], tolerance: f64) {
        let expected = &self.expected[name].values;
        assert_eq!(
            actual.len(),
            expected.len(),
            "{}: length of {name}",
            self.name
        );
        for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
            let close = (a - e).abs() <= tolerance + tolerance * e.abs();
            assert!(close, "{}: {name}[{index}] = {a}, expected {e}", self.name);
        }
    }
}

fn tensor<const D: usize>(array: &Array, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = array.values.iter().map(|&value| value as f32).collect();
    let data = TensorData::new(values, array.shape.clone());
    Tensor::from_data(data, device)
}

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

fn flat<const D: usize>(param: &Param<Tensor<D>>, grads: &Gradients) -> Vec<f64> {
    param
        .val()
        .grad(grads)
        .unwrap()
        .into_data()
        .iter::<f64>()
        .collect()
}

/// `[in, out]` as PyTorch has it, `[out, in]`.
fn transposed(param: &Param<Tensor<2>>, grads: &Gradients) -> Vec<f64> {
    let grad = param.val().grad(grads).unwrap().transpose();
    grad.into_data().iter::<f64>().collect()
}

/// The part of a joint `[in, 3 * out]` or `[3 * out]` gradient that belongs to the query (0),
/// the key (1) or the value (2), as PyTorch has it.
fn part_of_qkv(linear: &nn::Linear, kind: &str, part: usize, grads: &Gradients) -> Vec<f64> {
    let width = linear.weight.dims()[0];
    match kind {
        "weight" => {
            let grad = linear.weight.val().grad(grads).unwrap();
            let grad = grad.narrow(1, part * width, width).transpose();
            grad.into_data().iter::<f64>().collect()
        }
        _ => flat(linear.bias.as_ref().unwrap(), grads)[part * width..(part + 1) * width].to_vec(),
    }
}

fn of_linear(linear: &nn::Linear, kind: &str, grads: &Gradients) -> Vec<f64> {
    match kind {
        "weight" => transposed(&linear.weight, grads),
        _ => flat(linear.bias.as_ref().unwrap(), grads),
    }
}

fn of_norm(norm: &nn::LayerNorm, kind: &str, grads: &Gradients) -> Vec<f64> {
    match kind {
        "weight" => flat(&norm.gamma, grads),
        _ => flat(norm.beta.as_ref().unwrap(), grads),
    }
}

/// A gradient of the model under the published implementation's name for it.
fn backbone_gradient(vit: &Vit, name: &str, grads: &Gradients) -> Vec<f64> {
    match name.split('.').collect::<Vec<_>>()[..] {
        ["pos_embed"] => flat(&vit.embedding.positions, grads),
        ["cls_token"] => flat(&vit.embedding.cls_token, grads),
        // [3 * patch * patch, out] to [out, 3, patch, patch]: the same order once transposed.
        ["patch", kind] => of_linear(&vit.embedding.projection, kind, grads),
        ["norm", kind] => of_norm(&vit.norm, kind, grads),
        ["head", kind] => of_linear(vit.head.as_ref().unwrap(), kind, grads),
        ["blocks", index, part, kind] => {
            let block = &vit.blocks[index.parse::<usize>().unwrap()];
            match part {
                "query" => part_of_qkv(&block.attention.qkv, kind, 0, grads),
                "key" => part_of_qkv(&block.attention.qkv, kind, 1, grads),
                "value" => part_of_qkv(&block.attention.qkv, kind, 2, grads),
                "out" => of_linear(&block.attention.output, kind, grads),
                "fc1" => of_linear(&block.mlp.expand, kind, grads),
                "fc2" => of_linear(&block.mlp.contract, kind, grads),
                "norm1" => of_norm(&block.attention_norm, kind, grads),
                "norm2" => of_norm(&block.mlp_norm, kind, grads),
                _ => panic!("no parameter is called {name}"),
            }
        }
        _ => panic!("no parameter is called {name}"),
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
