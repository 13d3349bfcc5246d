//! Google's JAX checkpoints, as `vision_transformer` and AugReg publish them.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use burn::module::{Param, ParamId};
use burn::nn::{LayerNorm, Linear};
use burn::prelude::*;
use burn::tensor::TensorData;
use npyz::{DType, NpyFile, Order, TypeChar};
use zip::ZipArchive;

use crate::{Vit, VitConfig, VitError};

/// What to do with a checkpoint's classification head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointHead {
    /// Load it; it has to fit.
    Load,
    /// Leave the model's own, which starts at zero: fine-tuning to other classes.
    Fresh,
}

/// Loads a checkpoint in Google's naming into `vit`, which was made by `config`.
///
/// Positions of another image size are resized linearly, grid corner to grid corner, as the
/// published code does (`scipy.ndimage.zoom` of order 1). `pre_logits` of ImageNet-21k
/// checkpoints is left out.
///
/// # Errors
///
/// Names the file and the tensor that is missing, or has another shape or type.
pub fn load_google_npz(
    vit: Vit,
    config: &VitConfig,
    path: &Path,
    head: CheckpointHead,
) -> Result<Vit, VitError> {
    let mut file = NpzFile::open(path)?;
    let (d, p) = (config.hidden_size, config.patch_size);
    let (heads, width) = (config.num_heads, d / config.num_heads);

    let mut vit = vit;
    vit.embedding.projection = Linear {
        // Height, width, channel, out -> channel, height, width, out.
        weight: set(
            vit.embedding.projection.weight,
            permute_hwio(file.read("embedding/kernel", &[p, p, 3, d])?, p, d),
            [3 * p * p, d],
        ),
        bias: set_bias(
            vit.embedding.projection.bias,
            file.read("embedding/bias", &[d])?,
        ),
    };
    let cls = file.read("cls", &[1, 1, d])?;
    vit.embedding.cls_token = set(vit.embedding.cls_token, cls, [1, 1, d]);
    let positions = file.read_positions("Transformer/posembed_input/pos_embedding", config)?;
    let shape = [1, config.num_tokens(), d];
    vit.embedding.positions = set(vit.embedding.positions, positions, shape);

    let blocks = std::mem::take(&mut vit.blocks).into_iter().enumerate();
    let blocks = blocks.map(|(layer, mut block)| {
        let name = |part: &str| format!("Transformer/encoderblock_{layer}/{part}");
        let attention = name("MultiHeadDotProductAttention_1");
        let mut kernels = Vec::new();
        let mut biases = Vec::new();
        for part in ["query", "key", "value"] {
            kernels.push(file.read(&format!("{attention}/{part}/kernel"), &[d, heads, width])?);
            biases.push(file.read(&format!("{attention}/{part}/bias"), &[heads, width])?);
        }
        block.attention.qkv = Linear {
            weight: set(
                block.attention.qkv.weight,
                side_by_side(&kernels, d),
                [d, 3 * d],
            ),
            bias: set_bias(block.attention.qkv.bias, biases.concat()),
        };
        let kernel = file.read(&format!("{attention}/out/kernel"), &[heads, width, d])?;
        let bias = file.read(&format!("{attention}/out/bias"), &[d])?;
        block.attention.output = Linear {
            weight: set(block.attention.output.weight, kernel, [d, d]),
            bias: set_bias(block.attention.output.bias, bias),
        };
        block.attention_norm = file.read_norm(block.attention_norm, &name("LayerNorm_0"), d)?;
        block.mlp_norm = file.read_norm(block.mlp_norm, &name("LayerNorm_2"), d)?;
        let mlp = name("MlpBlock_3");
        let sizes = [d, config.mlp_dim];
        block.mlp.expand = file.read_linear(block.mlp.expand, &format!("{mlp}/Dense_0"), sizes)?;
        let sizes = [config.mlp_dim, d];
        block.mlp.contract =
            file.read_linear(block.mlp.contract, &format!("{mlp}/Dense_1"), sizes)?;
        Ok(block)
    });
    vit.blocks = blocks.collect::<Result<_, _>>()?;
    vit.norm = file.read_norm(vit.norm, "Transformer/encoder_norm", d)?;
    if head == CheckpointHead::Load {
        vit.head = file.read_linear(vit.head, "head", [d, config.num_classes])?;
    }
    if file.contains("pre_logits/kernel") {
        tracing::info!(
            "{}: pre_logits of the pre-training is left out",
            path.display()
        );
    }
    Ok(vit)
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

/// `[height, width, channel, out]` to `[channel, height, width, out]`.
fn permute_hwio(values: Vec<f32>, patch: usize, out: usize) -> Vec<f32> {
    let mut permuted = Vec::with_capacity(values.len());
    for channel in 0..3 {
        for pixel in 0..patch * patch {
            let start = (pixel * 3 + channel) * out;
            permuted.extend_from_slice(&values[start..start + out]);
        }
    }
    permuted
}

/// Matrices of `rows` rows, joined row by row.
fn side_by_side(matrices: &[Vec<f32>], rows: usize) -> Vec<f32> {
    let mut joined = Vec::with_capacity(matrices.iter().map(Vec::len).sum());
    for row in 0..rows {
        for matrix in matrices {
            let width = matrix.len() / rows;
            joined.extend_from_slice(&matrix[row * width..(row + 1) * width]);
        }
    }
    joined
}

/// A square grid of vectors resized linearly, corner to corner.
fn resize_grid(values: &[f32], from: usize, to: usize, width: usize) -> Vec<f32> {
    let mut resized = Vec::with_capacity(to * to * width);
    let scale = if to > 1 {
        (from - 1) as f64 / (to - 1) as f64
    } else {
        0.0
    };
    let sample = |index: usize| {
        let position = index as f64 * scale;
        let low = (position.floor() as usize).min(from - 1);
        (low, (low + 1).min(from - 1), (position - low as f64) as f32)
    };
    for row in 0..to {
        let (top, bottom, down) = sample(row);
        for column in 0..to {
            let (left, right, across) = sample(column);
            for channel in 0..width {
                let at =
                    |row: usize, column: usize| values[(row * from + column) * width + channel];
                let upper = at(top, left) * (1.0 - across) + at(top, right) * across;
                let lower = at(bottom, left) * (1.0 - across) + at(bottom, right) * across;
                resized.push(upper * (1.0 - down) + lower * down);
            }
        }
    }
    resized
}

/// An `.npz` file: a zip archive of `.npy` arrays.
struct NpzFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

impl NpzFile {
    fn open(path: &Path) -> Result<Self, VitError> {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        let archive =
            ZipArchive::new(BufReader::new(file)).map_err(|error| unreadable(path, error))?;
        Ok(Self {
            path: path.to_path_buf(),
            archive,
        })
    }

    fn contains(&self, name: &str) -> bool {
        self.archive
            .index_for_name(&format!("{name}.npy"))
            .is_some()
    }

    /// The shape and the values of an array, in row-major order.
    fn read_any(
        &mut self,
        name: &str,
        expected: &[usize],
        fits: impl Fn(&[usize]) -> bool,
    ) -> Result<(Vec<usize>, Vec<f32>), VitError> {
        let path = self.path.clone();
        if !self.contains(name) {
            return Err(VitError::MissingTensor {
                path,
                tensor: name.to_string(),
                expected: expected.to_vec(),
            });
        }
        let corrupt = |error: &dyn std::fmt::Display| VitError::Read {
            path: path.clone(),
            reason: format!("tensor '{name}': {error}"),
        };
        let entry = self
            .archive
            .by_name(&format!("{name}.npy"))
            .map_err(|error| corrupt(&error))?;
        // The shape is known before the data is read, so no entry can unpack to more than fits.
        let array = NpyFile::new(entry).map_err(|error| corrupt(&error))?;
        let shape: Vec<usize> = array.shape().iter().map(|&size| size as usize).collect();
        if !fits(&shape) {
            return Err(VitError::WrongShape {
                path,
                tensor: name.to_string(),
                found: shape,
                expected: expected.to_vec(),
            });
        }
        if array.order() != Order::C {
            return Err(corrupt(&"column-major order; expected row-major"));
        }
        let wrong_type = |dtype: &DType| VitError::WrongType {
            path: path.clone(),
            tensor: name.to_string(),
            found: dtype.descr(),
        };
        let values = match array.dtype() {
            DType::Plain(kind)
                if kind.type_char() == TypeChar::Float && kind.num_bytes() == Some(4) =>
            {
                array.into_vec::<f32>().map_err(|error| corrupt(&error))?
            }
            DType::Plain(kind)
                if kind.type_char() == TypeChar::Float && kind.num_bytes() == Some(8) =>
            {
                let values = array.into_vec::<f64>().map_err(|error| corrupt(&error))?;
                values.into_iter().map(|value| value as f32).collect()
            }
            dtype => return Err(wrong_type(&dtype)),
        };
        Ok((shape, values))
    }

    fn read(&mut self, name: &str, expected: &[usize]) -> Result<Vec<f32>, VitError> {
        Ok(self.read_any(name, expected, |shape| shape == expected)?.1)
    }

    /// Positions for the model's grid, resized where the checkpoint has another.
    fn read_positions(&mut self, name: &str, config: &VitConfig) -> Result<Vec<f32>, VitError> {
        let width = config.hidden_size;
        let expected = [1, config.num_tokens(), width];
        let grid_of = |shape: &[usize]| match *shape {
            [1, tokens, w] if w == width && tokens > 1 => {
                let grid = (tokens - 1).isqrt();
                (grid * grid == tokens - 1 && grid <= 1024).then_some(grid)
            }
            _ => None,
        };
        let (shape, values) = self.read_any(name, &expected, |shape| grid_of(shape).is_some())?;
        let from = grid_of(&shape).unwrap_or(config.grid());
        if from == config.grid() {
            return Ok(values);
        }
        tracing::info!(
            "positions resized from a {from}x{from} grid to {0}x{0}",
            config.grid()
        );
        let (cls, grid) = values.split_at(width);
        Ok([cls, &resize_grid(grid, from, config.grid(), width)].concat())
    }

    fn read_norm(
        &mut self,
        norm: LayerNorm,
        name: &str,
        width: usize,
    ) -> Result<LayerNorm, VitError> {
        let mut norm = norm;
        norm.gamma = set(
            norm.gamma,
            self.read(&format!("{name}/scale"), &[width])?,
            [width],
        );
        norm.beta = set_bias(norm.beta, self.read(&format!("{name}/bias"), &[width])?);
        Ok(norm)
    }

    fn read_linear(
        &mut self,
        linear: Linear,
        name: &str,
        [input, output]: [usize; 2],
    ) -> Result<Linear, VitError> {
        let kernel = self.read(&format!("{name}/kernel"), &[input, output])?;
        Ok(Linear {
            weight: set(linear.weight, kernel, [input, output]),
            bias: set_bias(linear.bias, self.read(&format!("{name}/bias"), &[output])?),
        })
    }
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> VitError {
    VitError::Read {
        path: path.to_path_buf(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_resized_keeps_its_corners() {
        let grid: Vec<f32> = (0..9).map(|value| value as f32).collect();
        let resized = resize_grid(&grid, 3, 5, 1);
        assert_eq!(resized.len(), 25);
        assert_eq!(
            [resized[0], resized[4], resized[20], resized[24]],
            [0.0, 2.0, 6.0, 8.0]
        );
        assert_eq!(resized[12], 4.0);
        assert_eq!(resized[1], 0.5);
    }
}
