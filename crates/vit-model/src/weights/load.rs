//! A checkpoint's tensors into a model.

use burn::module::{Param, ParamId};
use burn::nn::{GroupNorm, LayerNorm, Linear};
use burn::prelude::*;
use burn::tensor::TensorData;

use super::naming::{Layout, Part};
use super::positions;
use super::sizes::Grid;
use super::{Checkpoint, CheckpointHead, PositionResize};
use crate::stem::UnitShape;
use crate::{Block, StandardizedConv, Stem, StemConfig, Unit, Vit, VitConfig, VitError};

impl Checkpoint {
    /// Loads the weights into `vit`, which was made by `config`. Positions of another image size
    /// are resized as the checkpoint's project does it, unless `resize` says how.
    ///
    /// # Errors
    ///
    /// Names the file and the tensor that is missing, is not expected, has another shape or type, or
    /// is not finite.
    pub fn load(
        &mut self,
        vit: Vit,
        config: &VitConfig,
        head: CheckpointHead,
        resize: Option<PositionResize>,
    ) -> Result<Vit, VitError> {
        let mut vit = vit;
        let (d, m) = (config.hidden_size, config.mlp_dim);
        if let (Some(stem), Some(sizes)) = (vit.embedding.stem.take(), &config.stem) {
            vit.embedding.stem = Some(self.stem(stem, sizes)?);
        }
        vit.embedding.projection = self.patches(vit.embedding.projection, config)?;
        let cls = self.plain(Part::Cls, 0, &[1, 1, d])?;
        vit.embedding.cls_token = set(vit.embedding.cls_token, cls, [1, 1, d]);
        if let Some(token) = vit.embedding.distillation_token {
            let values = self.plain(Part::DistillationToken, 0, &[1, 1, d])?;
            vit.embedding.distillation_token = Some(set(token, values, [1, 1, d]));
        }
        let positions = self.positions(config, resize.unwrap_or(self.names.naming.resize))?;
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
            let shape = [d, config.num_classes];
            if let Some(head) = vit.head {
                vit.head = Some(if self.has_wide_head(d)? {
                    self.wide_head(head, shape)?
                } else {
                    self.linear(head, Part::Head, 0, shape)?
                });
            }
            if let Some(head) = vit.distillation_head {
                vit.distillation_head =
                    Some(self.linear(head, Part::DistillationHead, 0, shape)?);
            }
        }
        self.refuse_others(config)?;
        Ok(vit)
    }

    /// Does the head see the mean of all patches beside CLS, as Hugging Face's DINOv2 has it?
    fn has_wide_head(&mut self, d: usize) -> Result<bool, VitError> {
        let name = self.names.weight(Part::Head, 0).unwrap_or_default();
        let shape = self.tensors.shape(&name)?.unwrap_or_default();
        Ok(self.names.naming.layout == Layout::Torch && shape.get(1) == Some(&(2 * d)))
    }

    /// The part of such a head that sees CLS, if the other part is zero: our exported models'.
    fn wide_head(&mut self, head: Linear, [d, classes]: [usize; 2]) -> Result<Linear, VitError> {
        let name = self.names.weight(Part::Head, 0);
        let weight = self.values(name.clone(), &[classes, 2 * d])?;
        let rows = weight.chunks_exact(2 * d).map(|row| row.split_at(d));
        if rows
            .clone()
            .any(|(_, of_mean)| of_mean.iter().any(|&value| value != 0.0))
        {
            return Err(VitError::Read {
                path: self.tensors.path.clone(),
                reason: format!(
                    "tensor '{}' looks at the mean of all patches beside CLS; such a head is not \
                     supported, only the backbone",
                    name.unwrap_or_default()
                ),
            });
        }
        let weight: Vec<f32> = rows.flat_map(|(of_cls, _)| of_cls).copied().collect();
        let bias = self.bias(Part::Head, 0, &[classes])?;
        Ok(replaced(
            head,
            transposed(&weight, classes, d),
            bias,
            [d, classes],
        ))
    }

    /// A tensor's values, if its shape is what it has to be.
    fn values(&mut self, name: Option<String>, expected: &[usize]) -> Result<Vec<f32>, VitError> {
        let name = name.unwrap_or_default();
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
            Some(_) => self.finite(&name),
        }
    }

    fn plain(&mut self, part: Part, layer: usize, shape: &[usize]) -> Result<Vec<f32>, VitError> {
        self.values(self.names.of(part, layer), shape)
    }

    fn weight(&mut self, part: Part, layer: usize, shape: &[usize]) -> Result<Vec<f32>, VitError> {
        self.values(self.names.weight(part, layer), shape)
    }

    fn bias(&mut self, part: Part, layer: usize, shape: &[usize]) -> Result<Vec<f32>, VitError> {
        self.values(self.names.bias(part, layer), shape)
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
        let weight = match self.names.naming.layout {
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
    fn patches(&mut self, linear: Linear, config: &VitConfig) -> Result<Linear, VitError> {
        let stem = config.stem.as_ref();
        let channels = stem.map_or(3, StemConfig::output_channels);
        let patch = config.patch_size / stem.map_or(1, StemConfig::reduction);
        let (inputs, d) = (config.patch_inputs(), config.hidden_size);
        let weight = match self.names.naming.layout {
            Layout::Jax => {
                let weight = self.weight(Part::Patches, 0, &[patch, patch, channels, d])?;
                let mut permuted = Vec::with_capacity(weight.len());
                for channel in 0..channels {
                    for pixel in 0..patch * patch {
                        let start = (pixel * channels + channel) * d;
                        permuted.extend_from_slice(&weight[start..start + d]);
                    }
                }
                permuted
            }
            Layout::Torch => {
                let weight = self.weight(Part::Patches, 0, &[d, channels, patch, patch])?;
                transposed(&weight, d, inputs)
            }
        };
        let bias = self.bias(Part::Patches, 0, &[d])?;
        Ok(replaced(linear, weight, bias, [inputs, d]))
    }

    /// Queries, keys and values, `[hidden, 3 * hidden]`.
    fn qkv(&mut self, qkv: Linear, layer: usize, config: &VitConfig) -> Result<Linear, VitError> {
        let (d, heads) = (config.hidden_size, config.num_heads);
        if self.names.of(Part::Qkv, layer).is_some() {
            return self.linear(qkv, Part::Qkv, layer, [d, 3 * d]);
        }
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for part in [Part::Query, Part::Key, Part::Value] {
            match self.names.naming.layout {
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
        if self.names.naming.layout == Layout::Torch {
            return self.linear(output, part, layer, [d, d]);
        }
        let weight = self.weight(part, layer, &[heads, d / heads, d])?;
        let bias = self.bias(part, layer, &[d])?;
        Ok(replaced(output, weight, bias, [d, d]))
    }

    /// Positions for the model's grid, CLS first, resized where the checkpoint has another.
    fn positions(&mut self, config: &VitConfig, how: PositionResize) -> Result<Vec<f32>, VitError> {
        let (width, to) = (config.hidden_size, config.grid());
        let name = self.names.of(Part::Positions, 0).unwrap_or_default();
        let found = self.tensors.shape(&name)?.unwrap_or_default();
        let said = Some(self.sizes.config.image_size);
        let Some(Grid { sides, prefix }) = Grid::of(&found, config, said) else {
            return self.plain(Part::Positions, 0, &[1, config.num_tokens(), width]);
        };
        let values = self.finite(&name)?;
        let (before, grid) = values.split_at(prefix * width);
        let without = vec![0.0; (config.num_prefix_tokens() - prefix) * width];
        if sides == to {
            return Ok([&without, before, grid].concat());
        }
        let [from, target] = [sides, to].map(|[rows, columns]| format!("{rows}x{columns}"));
        tracing::info!("positions resized from a {from} grid to {target} ({how:?})");
        let grid = positions::resize(grid, sides, to, width, how);
        Ok([&without, before, &grid].concat())
    }

    fn stem(&mut self, stem: Stem, sizes: &StemConfig) -> Result<Stem, VitError> {
        let Some(names) = self.names.naming.stem else {
            let path = self.tensors.path.clone();
            let reason = format!("a stem has no names in files of {}", self.names.naming.name);
            return Err(VitError::Read { path, reason });
        };
        let mut stem = stem;
        let shape = [sizes.channels, 3, 7];
        (stem.convolution, stem.norm) =
            self.convolution((stem.convolution, stem.norm), &names.root(), shape)?;
        let units = stem.units.into_iter().zip(sizes.units());
        let units = units.map(|(unit, shape)| -> Result<Unit, VitError> {
            let UnitShape {
                inputs, outputs, ..
            } = shape;
            let inner = shape.inner();
            let shapes = [[inner, inputs, 1], [inner, inner, 3], [outputs, inner, 1]];
            let layers = names
                .layers(shape.stage, shape.unit)
                .into_iter()
                .zip(shapes);
            let (mut convolutions, mut norms) = (Vec::new(), Vec::new());
            let old = unit.convolutions.into_iter().zip(unit.norms);
            for (pair, (names, shape)) in old.zip(layers) {
                let (convolution, norm) = self.convolution(pair, &names, shape)?;
                convolutions.push(convolution);
                norms.push(norm);
            }
            let shortcut = match unit.shortcut.zip(unit.shortcut_norm) {
                None => None,
                Some(pair) => {
                    let names = names.shortcut(shape.stage, shape.unit);
                    Some(self.convolution(pair, &names, [outputs, inputs, 1])?)
                }
            };
            let (shortcut, shortcut_norm) = shortcut.unzip();
            Ok(Unit {
                convolutions,
                norms,
                shortcut,
                shortcut_norm,
            })
        });
        stem.units = units.collect::<Result<_, _>>()?;
        Ok(stem)
    }

    /// A convolution and the norm after it.
    fn convolution(
        &mut self,
        (convolution, norm): (StandardizedConv, GroupNorm),
        names: &[String; 2],
        [outputs, inputs, kernel]: [usize; 3],
    ) -> Result<(StandardizedConv, GroupNorm), VitError> {
        let (mut convolution, mut norm) = (convolution, norm);
        let naming = self.names.naming;
        let [of_convolution, of_norm] = names.each_ref().map(|name| self.names.of_backbone(name));
        let name = Some(of_convolution + naming.weight_suffix(false));
        let values = match naming.layout {
            Layout::Torch => self.values(name, &[outputs, inputs, kernel, kernel])?,
            Layout::Jax => {
                let values = self.values(name, &[kernel, kernel, inputs, outputs])?;
                transposed(&values, kernel * kernel * inputs, outputs)
                    .chunks_exact((kernel * kernel * inputs).max(1))
                    .flat_map(|output| transposed(output, kernel * kernel, inputs))
                    .collect()
            }
        };
        let shape = [outputs, inputs, kernel, kernel];
        convolution.weight = set(convolution.weight, values, shape);
        let mut of_channels = |suffix: &str| {
            let name = format!("{of_norm}{suffix}");
            // Google's have three axes of 1 before it in some files.
            let found = self.tensors.shape(&name)?.unwrap_or_default();
            let flat = found.len() == 4 && found[..3] == [1; 3];
            let expected: &[usize] = if flat {
                &[1, 1, 1, outputs]
            } else {
                &[outputs]
            };
            self.values(Some(name), expected)
        };
        let gamma = of_channels(naming.weight_suffix(true))?;
        let beta = of_channels(naming.bias_suffix())?;
        norm.gamma = set_bias(norm.gamma, gamma);
        norm.beta = set_bias(norm.beta, beta);
        Ok((convolution, norm))
    }
}

/// `[rows, columns]` to `[columns, rows]`.
pub(super) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
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
