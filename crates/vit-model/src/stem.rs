use burn::module::{Initializer, Module, Param};
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use burn::tensor::module::{conv2d, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use serde::{Deserialize, Serialize};

use crate::{ImageSize, VitError};

/// Groups of every norm in the stem.
const GROUPS: usize = 32;
/// Epsilon of the norms, as timm has it.
const NORM_EPS: f64 = 1e-5;
/// Epsilon under the root of a weight's variance, as timm has it.
const WEIGHT_EPS: f64 = 1e-8;
/// A unit's inner channels are a fourth of its outer ones.
const BOTTLENECK: usize = 4;

/// A convolutional stem before the patches: the hybrid models of Dosovitskiy et al. (2021, section
/// 3.1, "Hybrid Architecture"), a ResNet (Kolesnikov et al., "Big Transfer", 2020) with
/// weight-standardised convolutions and group norms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StemConfig {
    /// Channels after the first convolution.
    pub channels: usize,
    /// Each stage's number of units and its channels. The first stage keeps the grid, each other
    /// one halves it.
    pub stages: Vec<[usize; 2]>,
}

impl StemConfig {
    /// The first three stages of ResNet-50, with the third lengthened to nine units, as R50+ViT-B/16
    /// has it.
    pub fn r50() -> Self {
        Self {
            channels: 64,
            stages: vec![[3, 256], [4, 512], [9, 1024]],
        }
    }

    /// Pixels of the image for one of the output, along each side.
    pub fn reduction(&self) -> usize {
        4 << self.stages.len().saturating_sub(1)
    }

    /// Channels of the output.
    pub fn output_channels(&self) -> usize {
        self.stages
            .last()
            .map_or(self.channels, |&[_, channels]| channels)
    }

    pub(crate) fn validate(&self) -> Result<(), VitError> {
        let error = |field, found: usize, factor: usize| {
            Err(VitError::Config {
                field,
                found: found.to_string(),
                expected: format!("must be a multiple of {factor}, for norms of {GROUPS} groups"),
            })
        };
        if self.stages.is_empty() || self.stages.iter().any(|&[units, _]| units == 0) {
            return Err(VitError::Config {
                field: "stem.stages",
                found: format!("{:?}", self.stages),
                expected: "must have a stage or more, each with a unit or more".into(),
            });
        }
        if self.channels == 0 || !self.channels.is_multiple_of(GROUPS) {
            return error("stem.channels", self.channels, GROUPS);
        }
        let factor = GROUPS * BOTTLENECK;
        let wrong =
            |&&[_, channels]: &&[usize; 2]| channels == 0 || !channels.is_multiple_of(factor);
        match self.stages.iter().find(wrong) {
            Some(&[_, channels]) => error("stem.stages", channels, factor),
            None => Ok(()),
        }
    }

    /// Every unit of the stem, in order.
    pub(crate) fn units(&self) -> Vec<UnitShape> {
        let mut inputs = self.channels;
        let mut units = Vec::new();
        for (stage, &[count, outputs]) in self.stages.iter().enumerate() {
            for unit in 0..count {
                units.push(UnitShape {
                    stage,
                    unit,
                    inputs,
                    outputs,
                    stride: if unit == 0 && stage > 0 { 2 } else { 1 },
                });
                inputs = outputs;
            }
        }
        units
    }

    /// Every convolution: its shape `[outputs, inputs, kernel]`, and what the grid it works on is
    /// divided by, as its output has it.
    fn convolutions(&self) -> Vec<([usize; 3], usize)> {
        let mut convolutions = vec![([self.channels, 3, 7], 2)];
        let mut division = 4;
        for unit in self.units() {
            let inner = unit.inner();
            let before = division;
            division *= unit.stride;
            convolutions.push(([inner, unit.inputs, 1], before));
            convolutions.push(([inner, inner, 3], division));
            convolutions.push(([unit.outputs, inner, 1], division));
            if unit.has_shortcut() {
                convolutions.push(([unit.outputs, unit.inputs, 1], division));
            }
        }
        convolutions
    }

    /// Parameters: convolutions without bias, and two a channel for the norm after each of them.
    pub(crate) fn num_parameters(&self) -> usize {
        let convolutions = self.convolutions().into_iter();
        convolutions
            .map(|([outputs, inputs, kernel], _)| outputs * inputs * kernel * kernel + 2 * outputs)
            .sum()
    }

    /// Floating-point operations of its convolutions on one image.
    pub(crate) fn flops(&self, size: ImageSize) -> u64 {
        let convolutions = self.convolutions().into_iter();
        convolutions
            .map(|([outputs, inputs, kernel], division)| {
                let places = size.height.div_ceil(division) * size.width.div_ceil(division);
                2 * (places * outputs * inputs * kernel * kernel) as u64
            })
            .sum()
    }

    pub(crate) fn init(&self, device: &Device) -> Stem {
        let units = self.units().into_iter();
        Stem {
            convolution: StandardizedConv::new([self.channels, 3, 7], 2, device),
            norm: group_norm(self.channels, device),
            units: units.map(|unit| Unit::new(unit, device)).collect(),
        }
    }
}

/// The shape of one unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnitShape {
    pub stage: usize,
    /// Its number within the stage.
    pub unit: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub stride: usize,
}

impl UnitShape {
    pub fn inner(self) -> usize {
        self.outputs / BOTTLENECK
    }

    /// Where a unit changes its input's shape, what it adds to has to change too.
    pub fn has_shortcut(self) -> bool {
        self.inputs != self.outputs || self.stride != 1
    }
}

/// A convolution whose weights are brought to mean 0 and variance 1 for each output before use
/// (Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
/// Standardization", 2019), without bias, padded so that the output is the input divided by the
/// stride ("SAME").
#[derive(Module, Debug)]
pub struct StandardizedConv {
    /// `[outputs, inputs, kernel, kernel]`
    pub weight: Param<Tensor<4>>,
    /// Of both axes.
    stride: usize,
}

impl StandardizedConv {
    fn new([outputs, inputs, kernel]: [usize; 3], stride: usize, device: &Device) -> Self {
        let kaiming = Initializer::KaimingNormal {
            gain: std::f64::consts::SQRT_2,
            fan_out_only: false,
        };
        let fan_in = inputs * kernel * kernel;
        let shape = [outputs, inputs, kernel, kernel];
        Self {
            weight: kaiming.init_with(shape, Some(fan_in), None, device),
            stride,
        }
    }

    /// `[batch, inputs, height, width]` to `[batch, outputs, height / stride, width / stride]`,
    /// rounded up.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = input.dims();
        let shape = self.weight.dims();
        let [outputs, inputs, kernel, _] = shape;
        let weight = self
            .weight
            .val()
            .reshape([outputs, inputs * kernel * kernel]);
        let centered = weight.clone() - weight.mean_dim(1);
        let variance = centered.clone().square().mean_dim(1);
        let weight = (centered / (variance + WEIGHT_EPS).sqrt()).reshape(shape);
        let padding = [height, width].map(|size| same_padding(size, kernel, self.stride));
        let options = ConvOptions::new_with_padding([self.stride; 2], padding, [1, 1], 1);
        conv2d(input, weight, None, options)
    }
}

/// What goes before and after a line of `size` values, so that its output has
/// `size / stride` of them, rounded up; where it is odd, the end gets more.
fn same_padding(size: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let all = ((size.div_ceil(stride) - 1) * stride + kernel).saturating_sub(size);
    (all / 2, all - all / 2)
}

fn group_norm(channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(GROUPS, channels)
        .with_epsilon(NORM_EPS)
        .init(device)
}

/// A bottleneck unit: 1x1, 3x3 and 1x1 convolutions, each with a norm behind it, and the input
/// added before the last activation.
#[derive(Module, Debug)]
pub struct Unit {
    /// The three convolutions.
    pub convolutions: Vec<StandardizedConv>,
    /// The norms after them.
    pub norms: Vec<GroupNorm>,
    /// What the input goes through where the shape changes.
    pub shortcut: Option<StandardizedConv>,
    /// The norm after that.
    pub shortcut_norm: Option<GroupNorm>,
}

impl Unit {
    fn new(shape: UnitShape, device: &Device) -> Self {
        let (
            inner,
            UnitShape {
                inputs,
                outputs,
                stride,
                ..
            },
        ) = (shape.inner(), shape);
        let conv = |shape, stride| StandardizedConv::new(shape, stride, device);
        let norm = |channels| group_norm(channels, device);
        let changes = shape.has_shortcut();
        Self {
            convolutions: vec![
                conv([inner, inputs, 1], 1),
                conv([inner, inner, 3], stride),
                conv([outputs, inner, 1], 1),
            ],
            norms: vec![norm(inner), norm(inner), norm(outputs)],
            shortcut: changes.then(|| conv([outputs, inputs, 1], stride)),
            shortcut_norm: changes.then(|| norm(outputs)),
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let shortcut = match (&self.shortcut, &self.shortcut_norm) {
            (Some(convolution), Some(norm)) => norm.forward(convolution.forward(input.clone())),
            _ => input.clone(),
        };
        let last = self.convolutions.len() - 1;
        let layers = self.convolutions.iter().zip(&self.norms).enumerate();
        let output = layers.fold(input, |input, (index, (convolution, norm))| {
            let output = norm.forward(convolution.forward(input));
            if index == last { output } else { relu(output) }
        });
        relu(output + shortcut)
    }
}

/// Images to feature maps, created by [`VitConfig::init`](crate::VitConfig::init) where the config
/// has a [`StemConfig`].
#[derive(Module, Debug)]
pub struct Stem {
    /// 7x7, every other pixel.
    pub convolution: StandardizedConv,
    /// The norm after it.
    pub norm: GroupNorm,
    /// All stages' units.
    pub units: Vec<Unit>,
}

impl Stem {
    /// `[batch, 3, height, width]` to `[batch, channels, height / r, width / r]`, `r` being the
    /// stem's reduction.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let features = relu(self.norm.forward(self.convolution.forward(images)));
        let [_, _, height, width] = features.dims();
        let pool = MaxPoolOptions {
            stride: [2, 2],
            padding: [height, width].map(|size| same_padding(size, 3, 2)),
            ..MaxPoolOptions::new([3, 3])
        };
        let features = max_pool2d(features, pool);
        let units = self.units.iter();
        units.fold(features, |features, unit| unit.forward(features))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_keeps_the_size_over_the_stride() {
        for (size, kernel, stride, expected) in [
            (224, 7, 2, (2, 3)),
            (112, 3, 2, (0, 1)),
            (56, 3, 1, (1, 1)),
            (7, 3, 2, (1, 1)),
            (56, 1, 2, (0, 0)),
        ] {
            assert_eq!(same_padding(size, kernel, stride), expected);
        }
    }

    #[test]
    fn channels_that_cannot_be_grouped_are_refused() {
        let stem = StemConfig {
            channels: 64,
            stages: vec![[1, 96]],
        };
        let message = stem.validate().unwrap_err().to_string();
        assert!(message.contains("stem.stages = 96"), "{message}");
    }
}
