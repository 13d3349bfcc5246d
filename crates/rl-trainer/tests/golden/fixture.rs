//! A model of the published implementation, and its numbers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use apt_inference::PruningVit;
use apt_pruning_agent::{AnyPolicy, Apt, AptSettings, Policy, PolicySettings, Selection};
use apt_rl_trainer::algorithm::counterfactual::{DensePass, dense_pass};
use apt_vit_model::{
    Activation, Checkpoint, CheckpointHead, ExecutionMode, ImageSize, Precision, RunSettings, Vit,
    VitConfig,
};
use burn::module::{Module, ParamId};
use burn::prelude::*;
use safetensors::SafeTensors;

use crate::common;

/// How far a backend may be from the published numbers, absolutely and relatively. In short floats
/// the model's own results alone are compared: a removal probability near the threshold decides
/// anew there.
pub fn tolerance(device: &Device, precision: Precision) -> f64 {
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

pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

pub struct Golden {
    pub name: String,
    pub config: VitConfig,
    pub layers: Vec<usize>,
    pub threshold: f64,
    pub vit: Vit,
    pub agents: Apt,
    pub expected: HashMap<String, Array>,
    pub device: Device,
}

pub fn read_tensors(path: &Path) -> HashMap<String, Array> {
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
    pub fn load(folder: &Path) -> Self {
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
    pub fn all() -> Vec<Self> {
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

    pub fn images(&self) -> Tensor<4> {
        tensor(&self.expected["images"], &self.device)
    }

    pub fn targets(&self) -> Vec<usize> {
        self.indices("labels")
    }

    pub fn indices(&self, name: &str) -> Vec<usize> {
        self.expected[name]
            .values
            .iter()
            .map(|&value| value as usize)
            .collect()
    }

    pub fn run(&self, mode: ExecutionMode) -> apt_vit_model::VitOutput {
        let (vit, agents) = (self.vit.valid(), self.agents.valid());
        let reducer = agents.reducer(&self.selection(), &[]);
        let settings = RunSettings {
            mode,
            reducer: Some(&*reducer),
        };
        vit.forward(self.images().inner(), settings)
    }

    pub fn selection(&self) -> Selection {
        Selection::Threshold {
            threshold: self.threshold,
        }
    }

    pub fn dense_pass(&self) -> DensePass {
        let policy = AnyPolicy::new(self.agents.valid());
        let model = PruningVit::new(self.vit.valid(), policy, self.config.clone());
        dense_pass(&model, self.images().inner(), &self.targets())
    }

    pub fn check<const D: usize>(&self, name: &str, actual: Tensor<D>) {
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
    pub fn check_values(&self, name: &str, actual: &[f64]) {
        self.check_within(name, actual, tolerance(&self.device, Precision::F32));
    }

    pub fn check_within(&self, name: &str, actual: &[f64], tolerance: f64) {
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

pub fn tensor<const D: usize>(array: &Array, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = array.values.iter().map(|&value| value as f32).collect();
    let data = TensorData::new(values, array.shape.clone());
    Tensor::from_data(data, device)
}
