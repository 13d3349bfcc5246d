//! Published checkpoints: whose they are, what model they hold, and how they get into ours.

mod naming;
mod pickle;
mod positions;
mod tensors;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::{Param, ParamId};
use burn::nn::{LayerNorm, Linear};
use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use self::naming::{Layout, NAMINGS, Naming, Part};
use self::tensors::{Tensors, unreadable};
use crate::{Activation, Block, Vit, VitConfig, VitError, VitPreset};

pub use self::naming::PositionResize;
pub use self::tensors::WeightsFormat;

/// What to do with a checkpoint's classification head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointHead {
    /// Load it; it has to fit.
    Load,
    /// Leave the model's own, which starts at zero: fine-tuning to other classes.
    Fresh,
}

/// A weights file whose naming is known: Google's `.npz`, timm's and Hugging Face's ViT and DINOv2
/// as safetensors or PyTorch checkpoints.
///
/// ```no_run
/// use apt_vit_model::{Checkpoint, CheckpointHead};
/// use burn::tensor::Device;
///
/// let mut checkpoint = Checkpoint::open("model.safetensors".as_ref())?;
/// let config = checkpoint.config().clone();
/// let vit = config.init(&Device::default())?;
/// let vit = checkpoint.load(vit, &config, CheckpointHead::Load, None)?;
/// # Ok::<(), apt_vit_model::VitError>(())
/// ```
pub struct Checkpoint {
    tensors: Tensors,
    naming: &'static Naming,
    /// What stands before each of the naming's names.
    prefix: String,
    config: VitConfig,
    /// Classes of the head, if there is one.
    classes: Option<usize>,
    heads_are_guessed: bool,
}

/// What a weights file is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckpointInfo {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: WeightsFormat,
    /// Whose names the tensors have.
    pub naming: &'static str,
    /// The model's sizes, as the tensors have them.
    pub config: VitConfig,
    /// Classes of the head, if there is one.
    pub classes: Option<usize>,
    /// The number of heads is a guess (as the preset of this width and depth has it, or 64 channels
    /// each): nothing in the file says it.
    pub heads_are_guessed: bool,
    /// Tensors that loading leaves out.
    pub left_out: Vec<String>,
    /// Tensors that no model of ours has: loading refuses them.
    pub unexpected: Vec<String>,
}

/// The part of a Hugging Face `config.json` that no tensor shows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HuggingFaceConfig {
    num_attention_heads: Option<usize>,
    layer_norm_eps: Option<f64>,
    hidden_act: Option<String>,
}

impl Checkpoint {
    /// Opens a weights file, or a folder as Hugging Face lays one out, and reads its sizes.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, or holds no Vision Transformer that is known.
    pub fn open(path: &Path) -> Result<Self, VitError> {
        let mut tensors = Tensors::open(path)?;
        let (naming, prefix) = recognise(&tensors).ok_or_else(|| {
            let names = NAMINGS.each_ref().map(|naming| naming.name).join(", ");
            let some: Vec<String> = tensors.names().into_iter().take(3).collect();
            let found = some.join(", ");
            let reason = format!("no tensors named as in a ViT of {names}; found {found}, ...");
            unreadable(&tensors.path, reason)
        })?;
        let beside = tensors.path.with_file_name("config.json");
        let hugging_face = match naming.is_hugging_face() && beside.is_file() {
            true => {
                let text = std::fs::read(&beside).map_err(|error| unreadable(&beside, error))?;
                serde_json::from_slice(&text).map_err(|error| unreadable(&beside, error))?
            }
            false => HuggingFaceConfig::default(),
        };
        let (config, classes, heads_are_guessed) =
            sizes(&mut tensors, naming, &prefix, &hugging_face)?;
        Ok(Self {
            tensors,
            naming,
            prefix,
            config,
            classes,
            heads_are_guessed,
        })
    }

    /// The model's sizes, as the tensors have them. Without a head, there are ten classes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// What the file is.
    pub fn info(&self) -> CheckpointInfo {
        let mut names = self.tensors.names();
        names.sort();
        let known = self.known_names(&self.config);
        let extra = names.into_iter().filter(|name| !known.contains(name));
        let (left_out, unexpected) = extra.partition(|name| self.is_left_out(name));
        CheckpointInfo {
            path: self.tensors.path.clone(),
            format: self.tensors.format,
            naming: self.naming.name,
            config: self.config.clone(),
            classes: self.classes,
            heads_are_guessed: self.heads_are_guessed,
            left_out,
            unexpected,
        }
    }

    /// Loads the weights into `vit`, which was made by `config`. Positions of another image size
    /// are resized as the checkpoint's project does it, unless `resize` says how.
    ///
    /// # Errors
    ///
    /// Names the file and the tensor that is missing, is not expected, or has another shape or
    /// type.
    pub fn load(
        &mut self,
        vit: Vit,
        config: &VitConfig,
        head: CheckpointHead,
        resize: Option<PositionResize>,
    ) -> Result<Vit, VitError> {
        let mut vit = vit;
        let (d, p, m) = (config.hidden_size, config.patch_size, config.mlp_dim);
        vit.embedding.projection = self.patches(vit.embedding.projection, p, d)?;
        let cls = self.plain(Part::Cls, 0, &[1, 1, d])?;
        vit.embedding.cls_token = set(vit.embedding.cls_token, cls, [1, 1, d]);
        let positions = self.positions(config, resize.unwrap_or(self.naming.resize))?;
        let shape = [1, config.num_tokens(), d];
        vit.embedding.positions = set(vit.embedding.positions, positions, shape);

        let blocks = std::mem::take(&mut vit.blocks).into_iter().enumerate();
        let blocks = blocks.map(|(layer, block)| -> Result<Block, VitError> {
            let mut block = block;
            block.attention_norm =
                self.norm(block.attention_norm, Part::AttentionNorm, layer, d)?;
            block.attention.qkv = self.qkv(block.attention.qkv, layer, config)?;
            block.attention.output =
                self.attention_output(block.attention.output, layer, config)?;
            block.mlp_norm = self.norm(block.mlp_norm, Part::MlpNorm, layer, d)?;
            block.mlp.expand = self.linear(block.mlp.expand, Part::Expand, layer, [d, m])?;
            block.mlp.contract = self.linear(block.mlp.contract, Part::Contract, layer, [m, d])?;
            if let Some(scale) = block.attention_scale {
                let values = self.plain(Part::AttentionScale, layer, &[d])?;
                block.attention_scale = Some(set(scale, values, [d]));
            }
            if let Some(scale) = block.mlp_scale {
                let values = self.plain(Part::MlpScale, layer, &[d])?;
                block.mlp_scale = Some(set(scale, values, [d]));
            }
            Ok(block)
        });
        vit.blocks = blocks.collect::<Result<_, _>>()?;
        vit.norm = self.norm(vit.norm, Part::Norm, 0, d)?;
        if head == CheckpointHead::Load {
            vit.head = self.linear(vit.head, Part::Head, 0, [d, config.num_classes])?;
        }
        self.refuse_others(config)?;
        Ok(vit)
    }

    /// Refuses tensors that the model has no place for.
    fn refuse_others(&mut self, config: &VitConfig) -> Result<(), VitError> {
        let known = self.known_names(config);
        for name in self.tensors.names() {
            if self.is_left_out(&name) {
                tracing::info!("{}: '{name}' is left out", self.tensors.path.display());
            } else if !known.contains(&name) {
                return Err(VitError::UnexpectedTensor {
                    path: self.tensors.path.clone(),
                    found: self.tensors.shape(&name)?.unwrap_or_default(),
                    tensor: name,
                });
            }
        }
        Ok(())
    }

    /// The names of everything that a model has, a head included.
    fn known_names(&self, config: &VitConfig) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for &(part, name) in self.naming.table {
            let scale = matches!(part, Part::AttentionScale | Part::MlpScale);
            if scale && config.layer_scale.is_none() {
                continue;
            }
            let layers = if name.contains("{}") {
                config.num_layers
            } else {
                1
            };
            for layer in 0..layers {
                let naming = self.naming;
                match part {
                    Part::Cls | Part::Positions | Part::AttentionScale | Part::MlpScale => {
                        names.extend(naming.of(part, layer));
                    }
                    _ => {
                        names.extend(naming.weight(part, layer));
                        names.extend(naming.bias(part, layer));
                    }
                }
            }
        }
        names.into_iter().map(|name| self.prefixed(&name)).collect()
    }

    fn is_left_out(&self, name: &str) -> bool {
        let name = name.strip_prefix(&self.prefix).unwrap_or(name);
        self.naming
            .left_out
            .iter()
            .any(|start| name.starts_with(start))
    }

    /// Hugging Face's head stands beside the backbone, not in it.
    fn prefixed(&self, name: &str) -> String {
        let head = self.naming.of(Part::Head, 0).unwrap_or_default();
        match self.naming.is_hugging_face() && name.starts_with(&head) {
            true => name.to_string(),
            false => format!("{}{name}", self.prefix),
        }
    }

    /// A tensor's values, if its shape is what it has to be.
    fn values(&mut self, name: Option<String>, expected: &[usize]) -> Result<Vec<f32>, VitError> {
        let name = self.prefixed(&name.unwrap_or_default());
        let path = self.tensors.path.clone();
        let expected = expected.to_vec();
        match self.tensors.shape(&name)? {
            None => Err(VitError::MissingTensor {
                path,
                tensor: name,
                expected,
            }),
            Some(found) if found != expected => Err(VitError::WrongShape {
                path,
                tensor: name,
                found,
                expected,
            }),
            Some(_) => self.tensors.read(&name),
        }
    }

    fn plain(&mut self, part: Part, layer: usize, shape: &[usize]) -> Result<Vec<f32>, VitError> {
        self.values(self.naming.of(part, layer), shape)
    }

    fn weight(&mut self, part: Part, layer: usize, shape: &[usize]) -> Result<Vec<f32>, VitError> {
        self.values(self.naming.weight(part, layer), shape)
    }

    fn bias(&mut self, part: Part, layer: usize, shape: &[usize]) -> Result<Vec<f32>, VitError> {
        self.values(self.naming.bias(part, layer), shape)
    }

    fn norm(
        &mut self,
        norm: LayerNorm,
        part: Part,
        layer: usize,
        width: usize,
    ) -> Result<LayerNorm, VitError> {
        let mut norm = norm;
        norm.gamma = set(norm.gamma, self.weight(part, layer, &[width])?, [width]);
        norm.beta = set_bias(norm.beta, self.bias(part, layer, &[width])?);
        Ok(norm)
    }

    fn linear(
        &mut self,
        linear: Linear,
        part: Part,
        layer: usize,
        [inputs, outputs]: [usize; 2],
    ) -> Result<Linear, VitError> {
        let weight = match self.naming.layout {
            Layout::Jax => self.weight(part, layer, &[inputs, outputs])?,
            Layout::Torch => {
                let weight = self.weight(part, layer, &[outputs, inputs])?;
                transposed(&weight, outputs, inputs)
            }
        };
        let bias = self.bias(part, layer, &[outputs])?;
        Ok(replaced(linear, weight, bias, [inputs, outputs]))
    }

    /// The projection of a patch, `[channel, height, width]` flattened.
    fn patches(&mut self, linear: Linear, patch: usize, d: usize) -> Result<Linear, VitError> {
        let pixels = patch * patch;
        let weight = match self.naming.layout {
            Layout::Jax => {
                let weight = self.weight(Part::Patches, 0, &[patch, patch, 3, d])?;
                let mut permuted = Vec::with_capacity(weight.len());
                for channel in 0..3 {
                    for pixel in 0..pixels {
                        let start = (pixel * 3 + channel) * d;
                        permuted.extend_from_slice(&weight[start..start + d]);
                    }
                }
                permuted
            }
            Layout::Torch => {
                let weight = self.weight(Part::Patches, 0, &[d, 3, patch, patch])?;
                transposed(&weight, d, 3 * pixels)
            }
        };
        let bias = self.bias(Part::Patches, 0, &[d])?;
        Ok(replaced(linear, weight, bias, [3 * pixels, d]))
    }

    /// Queries, keys and values, `[hidden, 3 * hidden]`.
    fn qkv(&mut self, qkv: Linear, layer: usize, config: &VitConfig) -> Result<Linear, VitError> {
        let (d, heads) = (config.hidden_size, config.num_heads);
        if self.naming.of(Part::Qkv, layer).is_some() {
            return self.linear(qkv, Part::Qkv, layer, [d, 3 * d]);
        }
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for part in [Part::Query, Part::Key, Part::Value] {
            match self.naming.layout {
                Layout::Jax => {
                    weights.push(self.weight(part, layer, &[d, heads, d / heads])?);
                    biases.extend(self.bias(part, layer, &[heads, d / heads])?);
                }
                Layout::Torch => {
                    weights.push(transposed(&self.weight(part, layer, &[d, d])?, d, d));
                    biases.extend(self.bias(part, layer, &[d])?);
                }
            }
        }
        let mut joined = Vec::with_capacity(3 * d * d);
        for row in 0..d {
            for weight in &weights {
                joined.extend_from_slice(&weight[row * d..(row + 1) * d]);
            }
        }
        Ok(replaced(qkv, joined, biases, [d, 3 * d]))
    }

    fn attention_output(
        &mut self,
        output: Linear,
        layer: usize,
        config: &VitConfig,
    ) -> Result<Linear, VitError> {
        let (d, heads) = (config.hidden_size, config.num_heads);
        let part = Part::AttentionOutput;
        match self.naming.layout {
            Layout::Torch => self.linear(output, part, layer, [d, d]),
            Layout::Jax => {
                let weight = self.weight(part, layer, &[heads, d / heads, d])?;
                Ok(replaced(
                    output,
                    weight,
                    self.bias(part, layer, &[d])?,
                    [d, d],
                ))
            }
        }
    }

    /// Positions for the model's grid, CLS first, resized where the checkpoint has another.
    fn positions(&mut self, config: &VitConfig, how: PositionResize) -> Result<Vec<f32>, VitError> {
        let (width, to) = (config.hidden_size, config.grid());
        let name = self.prefixed(&self.naming.of(Part::Positions, 0).unwrap_or_default());
        let found = self.tensors.shape(&name)?.unwrap_or_default();
        let Some((from, of_cls)) = grid_of(&found, width) else {
            return self.plain(Part::Positions, 0, &[1, config.num_tokens(), width]);
        };
        let mut values = self.tensors.read(&name)?;
        if !of_cls {
            values.splice(0..0, vec![0.0; width]);
        }
        if from == to {
            return Ok(values);
        }
        tracing::info!("positions resized from a {from}x{from} grid to {to}x{to} ({how:?})");
        let (cls, grid) = values.split_at(width);
        let grid = positions::resize(grid, [from; 2], [to; 2], width, how);
        Ok([cls, &grid].concat())
    }
}

/// The side of the square grid of positions, `[1, tokens, width]`, and whether CLS has one too.
fn grid_of(shape: &[usize], width: usize) -> Option<(usize, bool)> {
    let &[1, tokens, found] = shape else {
        return None;
    };
    let side = |patches: usize| {
        let side = patches.isqrt();
        (side > 0 && side * side == patches && side <= 1024).then_some(side)
    };
    let with_cls = side(tokens.checked_sub(1)?).map(|side| (side, true));
    let grid = with_cls.or(side(tokens).map(|side| (side, false)));
    grid.filter(|_| found == width)
}

/// The naming that the file follows, and what stands before its names.
fn recognise(tensors: &Tensors) -> Option<(&'static Naming, String)> {
    let names = tensors.names();
    NAMINGS.iter().find_map(|naming| {
        let sure = [
            naming.weight(Part::Patches, 0)?,
            naming.weight(Part::MlpNorm, 0)?,
        ];
        let prefix = names
            .iter()
            .find_map(|name| name.strip_suffix(sure[0].as_str()))?;
        let all = sure
            .iter()
            .all(|name| tensors.contains(&format!("{prefix}{name}")));
        all.then(|| (naming, prefix.to_string()))
    })
}

/// The model's sizes, the classes of the head, and whether the number of heads is a guess.
fn sizes(
    tensors: &mut Tensors,
    naming: &Naming,
    prefix: &str,
    hugging_face: &HuggingFaceConfig,
) -> Result<(VitConfig, Option<usize>, bool), VitError> {
    let path = tensors.path.clone();
    let mut shape = |name: Option<String>, prefix: &str| -> Result<Vec<usize>, VitError> {
        let name = format!("{prefix}{}", name.unwrap_or_default());
        Ok(tensors.shape(&name)?.unwrap_or_default())
    };
    let torch = naming.layout == Layout::Torch;
    let patches = shape(naming.weight(Part::Patches, 0), prefix)?;
    let (hidden_size, patch_size) = match (torch, patches.as_slice()) {
        (true, &[hidden, 3, patch, other]) if patch == other => (hidden, patch),
        (false, &[patch, other, 3, hidden]) if patch == other => (hidden, patch),
        _ => {
            let name = naming.weight(Part::Patches, 0).unwrap_or_default();
            let reason = format!("tensor '{name}' has shape {patches:?}: no square patches of RGB");
            return Err(unreadable(&path, reason));
        }
    };
    let mut num_layers = 0;
    while !shape(naming.weight(Part::MlpNorm, num_layers), prefix)?.is_empty() {
        num_layers += 1;
    }
    let mlp = shape(naming.weight(Part::Expand, 0), prefix)?;
    let mlp_dim = mlp
        .get(usize::from(!torch))
        .copied()
        .unwrap_or(4 * hidden_size);
    let scale = shape(naming.of(Part::AttentionScale, 0), prefix)?;
    let layer_scale = (naming.of(Part::AttentionScale, 0).is_some() && !scale.is_empty())
        .then_some(VitConfig::LAYER_SCALE);
    let query = shape(naming.weight(Part::Query, 0), prefix)?;
    let (num_heads, guessed) = match (hugging_face.num_attention_heads, query.as_slice()) {
        (Some(heads), _) => (heads, false),
        (None, &[_, heads, _]) => (heads, false),
        _ => {
            let mut presets = VitPreset::ALL.into_iter().map(VitPreset::config);
            let preset =
                presets.find(|p| p.hidden_size == hidden_size && p.num_layers == num_layers);
            (
                preset.map_or(hidden_size.div_ceil(64), |preset| preset.num_heads),
                true,
            )
        }
    };
    let positions = shape(naming.of(Part::Positions, 0), prefix)?;
    let grid = grid_of(&positions, hidden_size).map_or(1, |(side, _)| side);
    let of_head = match naming.is_hugging_face() {
        true => "",
        false => prefix,
    };
    let head = shape(naming.weight(Part::Head, 0), of_head)?;
    let classes = head.get(usize::from(!torch)).copied();
    let activation = match hugging_face.hidden_act.as_deref() {
        None | Some("gelu") => Activation::Gelu,
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Activation::GeluTanh,
        Some(other) => {
            let config = path.with_file_name("config.json");
            let reason = format!("hidden_act = '{other}'; supported are gelu and gelu_new");
            return Err(unreadable(&config, reason));
        }
    };
    let config = VitConfig {
        image_size: grid * patch_size,
        patch_size,
        hidden_size,
        num_layers,
        num_heads,
        mlp_dim,
        num_classes: classes.unwrap_or(10),
        layer_norm_eps: hugging_face.layer_norm_eps.unwrap_or(naming.layer_norm_eps),
        activation,
        layer_scale,
        ..VitConfig::default()
    };
    config.validate()?;
    Ok((config, classes, guessed))
}

/// `[rows, columns]` to `[columns, rows]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut result = Vec::with_capacity(values.len());
    for column in 0..columns {
        result.extend((0..rows).map(|row| values[row * columns + column]));
    }
    result
}

fn replaced(linear: Linear, weight: Vec<f32>, bias: Vec<f32>, shape: [usize; 2]) -> Linear {
    Linear {
        weight: set(linear.weight, weight, shape),
        bias: set_bias(linear.bias, bias),
    }
}

/// Replaces a parameter's value.
fn set<const D: usize>(
    param: Param<Tensor<D>>,
    values: Vec<f32>,
    shape: [usize; D],
) -> Param<Tensor<D>> {
    let device = param.lazy_device();
    let tensor = Tensor::from_data(TensorData::new(values, shape), &device);
    param.transform_for_load(tensor, ParamId::new())
}

fn set_bias(param: Option<Param<Tensor<1>>>, values: Vec<f32>) -> Option<Param<Tensor<1>>> {
    let size = values.len();
    param.map(|param| set(param, values, [size]))
}
