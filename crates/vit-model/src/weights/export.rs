//! A model out again, under the names that timm or Hugging Face gives its tensors.

mod configs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::nn::{GroupNorm, LayerNorm, Linear};
use burn::prelude::*;
use serde_json::Value;

use super::load::transposed;
use super::naming::{Names, Part, StemNames};
use super::namings::{HF_DINOV2, TIMM};
use super::stored::{NamedTensors, write};
use crate::{
    Distillation, Precision, StandardizedConv, Stem, StemConfig, Vit, VitConfig, VitError,
};
pub use configs::ExportDetails;
use configs::{hugging_face, hugging_face_config, timm_config};

/// Whose names an exported model gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportNaming {
    /// timm's `VisionTransformer`.
    Timm,
    /// Hugging Face transformers' `ViTForImageClassification`, `DeiTForImageClassification` (with
    /// teacher where there are two heads) or, with LayerScale, `Dinov2ForImageClassification`.
    HuggingFace,
}

/// A file of weights, and the `config.json` to lie beside it.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The weights.
    pub tensors: NamedTensors,
    /// What goes into `config.json`.
    pub config: Value,
    /// Which of the tensors are weights of the blocks' products.
    products: BTreeSet<String>,
    /// Which one is the patch projection's weight.
    patches: Option<String>,
}

impl Exported {
    /// Writes the tensors as safetensors, whole or not at all. Weights of products lie there in the precision that they are
    /// computed in by a model of `precision`: integers with a second tensor of 32-bit floats, `[outputs]`, by which their
    /// rows are multiplied, its name that of the weight and `_scale`. All other tensors are 32-bit floats.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path, precision: Precision) -> Result<(), VitError> {
        write(path, &self.tensors, |name| {
            if self.products.contains(name) {
                return precision;
            }
            match precision {
                _ if self.patches.as_deref() != Some(name) => Precision::F32,
                Precision::Int8 => Precision::Bf16,
                floats => floats,
            }
        })
    }
}

/// A model's tensors under the names of `naming`; the frameworks load them unchanged.
///
/// # Errors
///
/// Where the framework has no such model: Hugging Face has no hybrid, its DINOv2 no distillation token
/// and no images that are not square; timm has no distillation token without a head.
pub fn export(
    vit: &Vit,
    config: &VitConfig,
    naming: ExportNaming,
    details: ExportDetails<'_>,
) -> Result<Exported, VitError> {
    let (names, json) = match naming {
        ExportNaming::Timm if config.distillation == Some(Distillation::Token) => {
            return Err(VitError::NotExportable {
                framework: "timm",
                what: "a distillation token but no head on it",
                other: "Hugging Face's",
            });
        }
        ExportNaming::Timm => {
            let prefix = String::new();
            let naming = &TIMM;
            (Names { naming, prefix }, timm_config(config, details))
        }
        ExportNaming::HuggingFace => {
            let (naming, prefix, class) = hugging_face(config)?;
            let prefix = format!("{prefix}.");
            let config = hugging_face_config(config, class, details);
            (Names { naming, prefix }, config)
        }
    };
    let mut exporter = Exporter {
        names,
        tensors: BTreeMap::new(),
        products: BTreeSet::new(),
    };
    exporter.model(vit, config);
    Ok(Exported {
        tensors: exporter.tensors,
        config: json,
        products: exporter.products,
        patches: exporter.names.weight(Part::Patches, 0),
    })
}

struct Exporter {
    names: Names,
    tensors: NamedTensors,
    products: BTreeSet<String>,
}

impl Exporter {
    fn model(&mut self, vit: &Vit, config: &VitConfig) {
        let embedding = &vit.embedding;
        let stem = config.stem.as_ref();
        if let (Some(values), Some(sizes), Some(names)) =
            (&embedding.stem, stem, self.names.naming.stem)
        {
            self.stem(values, sizes, names);
        }
        let channels = stem.map_or(3, StemConfig::output_channels);
        let patch = config.patch_size / stem.map_or(1, StemConfig::reduction);
        let d = config.hidden_size;
        let weight = values(embedding.projection.weight.val());
        let weight = transposed(&weight, config.patch_inputs(), d);
        let shape = [d, channels, patch, patch];
        self.add(self.names.weight(Part::Patches, 0), &shape, weight);
        self.add_bias(Part::Patches, 0, &embedding.projection);
        self.add_tensor(self.names.of(Part::Cls, 0), embedding.cls_token.val());
        if let Some(token) = &embedding.distillation_token {
            self.add_tensor(self.names.of(Part::DistillationToken, 0), token.val());
        }
        self.add_tensor(self.names.of(Part::Positions, 0), embedding.positions.val());

        for (layer, block) in vit.blocks.iter().enumerate() {
            self.norm(Part::AttentionNorm, layer, &block.attention_norm);
            self.qkv(layer, &block.attention.qkv);
            let parts = [Part::Query, Part::Key, Part::Value, Part::Qkv];
            let rest = [Part::AttentionOutput, Part::Expand, Part::Contract];
            let weights = parts.into_iter().chain(rest);
            let names = weights.filter_map(|part| self.names.weight(part, layer));
            self.products.extend(names);
            self.linear(Part::AttentionOutput, layer, &block.attention.output);
            self.norm(Part::MlpNorm, layer, &block.mlp_norm);
            self.linear(Part::Expand, layer, &block.mlp.expand);
            self.linear(Part::Contract, layer, &block.mlp.contract);
            for (part, scale) in [
                (Part::AttentionScale, &block.attention_scale),
                (Part::MlpScale, &block.mlp_scale),
            ] {
                if let Some(scale) = scale {
                    self.add_tensor(self.names.of(part, layer), scale.val());
                }
            }
        }
        self.norm(Part::Norm, 0, &vit.norm);
        if let Some(head) = &vit.head {
            self.linear(Part::Head, 0, head);
        }
        if let Some(head) = &vit.distillation_head {
            self.linear(Part::DistillationHead, 0, head);
        }
        if self.names.naming.name == HF_DINOV2.name {
            self.widen_head(d);
        }
    }

    /// Hugging Face's DINOv2 head sees CLS and, behind it, the mean of all patches; ours does not
    /// look at the latter.
    fn widen_head(&mut self, d: usize) {
        let name = self.names.weight(Part::Head, 0).unwrap_or_default();
        if let Some((shape, values)) = self.tensors.get_mut(&name) {
            let wide = values
                .chunks_exact(d)
                .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, d)));
            *values = wide.collect();
            shape[1] = 2 * d;
        }
    }

    fn stem(&mut self, stem: &Stem, sizes: &StemConfig, names: &StemNames) {
        self.convolution(&names.root(), &stem.convolution, &stem.norm);
        for (unit, shape) in stem.units.iter().zip(sizes.units()) {
            let layers = names.layers(shape.stage, shape.unit);
            let parts = unit.convolutions.iter().zip(&unit.norms);
            for ((convolution, norm), names) in parts.zip(&layers) {
                self.convolution(names, convolution, norm);
            }
            if let (Some(convolution), Some(norm)) = (&unit.shortcut, &unit.shortcut_norm) {
                let names = names.shortcut(shape.stage, shape.unit);
                self.convolution(&names, convolution, norm);
            }
        }
    }

    fn convolution(
        &mut self,
        names: &[String; 2],
        convolution: &StandardizedConv,
        norm: &GroupNorm,
    ) {
        let naming = self.names.naming;
        let [of_convolution, of_norm] = names.each_ref().map(|name| self.names.of_backbone(name));
        let name = of_convolution + naming.weight_suffix(false);
        self.add_tensor(Some(name), convolution.weight.val());
        for (parameter, suffix) in [
            (&norm.gamma, naming.weight_suffix(true)),
            (&norm.beta, naming.bias_suffix()),
        ] {
            if let Some(parameter) = parameter {
                self.add_tensor(Some(format!("{of_norm}{suffix}")), parameter.val());
            }
        }
    }

    fn norm(&mut self, part: Part, layer: usize, norm: &LayerNorm) {
        self.add_tensor(self.names.weight(part, layer), norm.gamma.val());
        if let Some(beta) = &norm.beta {
            self.add_tensor(self.names.bias(part, layer), beta.val());
        }
    }

    fn linear(&mut self, part: Part, layer: usize, linear: &Linear) {
        let [inputs, outputs] = linear.weight.dims();
        let weight = transposed(&values(linear.weight.val()), inputs, outputs);
        self.add(self.names.weight(part, layer), &[outputs, inputs], weight);
        self.add_bias(part, layer, linear);
    }

    fn qkv(&mut self, layer: usize, qkv: &Linear) {
        if self.names.of(Part::Qkv, layer).is_some() {
            return self.linear(Part::Qkv, layer, qkv);
        }
        let [d, _] = qkv.weight.dims();
        for (index, part) in [Part::Query, Part::Key, Part::Value]
            .into_iter()
            .enumerate()
        {
            let weight = values(qkv.weight.val().narrow(1, index * d, d));
            let weight = transposed(&weight, d, d);
            self.add(self.names.weight(part, layer), &[d, d], weight);
            if let Some(bias) = &qkv.bias {
                let bias = bias.val().narrow(0, index * d, d);
                self.add_tensor(self.names.bias(part, layer), bias);
            }
        }
    }

    fn add_bias(&mut self, part: Part, layer: usize, linear: &Linear) {
        if let Some(bias) = &linear.bias {
            self.add_tensor(self.names.bias(part, layer), bias.val());
        }
    }

    fn add_tensor<const D: usize>(&mut self, name: Option<String>, tensor: Tensor<D>) {
        let shape = tensor.dims();
        self.add(name, &shape, values(tensor));
    }

    fn add(&mut self, name: Option<String>, shape: &[usize], values: Vec<f32>) {
        if let Some(name) = name {
            self.tensors.insert(name, (shape.to_vec(), values));
        }
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
