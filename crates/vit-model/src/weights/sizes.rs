//! A model's sizes, read from the tensors' shapes and from what lies beside them.

use std::path::Path;

use serde::Deserialize;

use super::naming::{Layout, Names, Naming, Part};
use super::plain_file;
use super::tensors::{Tensors, unreadable};
use crate::config::STEM_STAGES;
use crate::{Activation, Distillation, ImageSize, StemConfig, VitConfig, VitError, VitPreset};

/// The part of a `config.json` that no tensor shows, as Hugging Face and timm write it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigBeside {
    num_attention_heads: Option<usize>,
    layer_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    image_size: Option<ImageSize>,
    model_args: TimmArguments,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TimmArguments {
    num_heads: Option<usize>,
    img_size: Option<ImageSize>,
}

impl ConfigBeside {
    pub fn read(weights: &Path, naming: &Naming) -> Result<Self, VitError> {
        let path = weights.with_file_name("config.json");
        if naming.layout == Layout::Jax || matches!(path.try_exists(), Ok(false)) {
            return Ok(Self::default());
        }
        let text = plain_file::read_text(&path).map_err(|error| unreadable(&path, error))?;
        Self::parse(&text, &path)
    }

    /// Reads the text of `path`.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, VitError> {
        serde_json::from_slice(text).map_err(|error| unreadable(path, error))
    }

    fn activation(&self, weights: &Path) -> Result<Activation, VitError> {
        match self.hidden_act.as_deref() {
            None | Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
            Some(other) => {
                let path = weights.with_file_name("config.json");
                let reason = format!("hidden_act = '{other}'; supported are gelu and gelu_new");
                Err(unreadable(&path, reason))
            }
        }
    }
}

/// What a weights file says of its model.
pub(super) struct Sizes {
    pub config: VitConfig,
    /// Classes of the head, if there is one.
    pub classes: Option<usize>,
    pub heads_are_guessed: bool,
}

impl Sizes {
    pub fn read(
        tensors: &mut Tensors,
        names: &Names,
        beside: &ConfigBeside,
    ) -> Result<Self, VitError> {
        let path = tensors.path.clone();
        let stem = stem(tensors, names)?;
        let mut shape = |name: Option<String>| -> Result<Vec<usize>, VitError> {
            let shape = name.map(|name| tensors.shape(&name)).transpose()?;
            Ok(shape.flatten().unwrap_or_default())
        };
        let torch = names.naming.layout == Layout::Torch;
        let patches = shape(names.weight(Part::Patches, 0))?;
        let inputs = stem.as_ref().map_or(3, StemConfig::output_channels);
        let (hidden_size, patch) = match (torch, patches.as_slice()) {
            (true, &[hidden, channels, patch, other])
            | (false, &[patch, other, channels, hidden])
                if patch == other && channels == inputs =>
            {
                (hidden, patch)
            }
            _ => {
                let name = names.weight(Part::Patches, 0).unwrap_or_default();
                let reason = format!(
                    "tensor '{name}' has shape {patches:?}: no square patches of {inputs} channels"
                );
                return Err(unreadable(&path, reason));
            }
        };
        let patch_size = patch * stem.as_ref().map_or(1, StemConfig::reduction);
        let mut num_layers = 0;
        while !shape(names.weight(Part::MlpNorm, num_layers))?.is_empty() {
            num_layers += 1;
        }
        let mlp = shape(names.weight(Part::Expand, 0))?;
        let mlp_dim = mlp.get(usize::from(!torch)).copied();
        let scale = shape(names.of(Part::AttentionScale, 0))?;
        let token = shape(names.of(Part::DistillationToken, 0))?;
        let second_head = shape(names.weight(Part::DistillationHead, 0))?;
        let distillation = match (token.is_empty(), second_head.is_empty()) {
            (true, _) => None,
            (false, true) => Some(Distillation::Token),
            (false, false) => Some(Distillation::TokenAndHead),
        };

        let query = shape(names.weight(Part::Query, 0))?;
        let said = beside.num_attention_heads.or(beside.model_args.num_heads);
        let (num_heads, heads_are_guessed) = match (said, query.as_slice()) {
            (Some(heads), _) | (None, &[_, heads, _]) => (heads, false),
            _ => {
                let mut presets = VitPreset::ALL.into_iter().map(VitPreset::config);
                let preset =
                    presets.find(|p| p.hidden_size == hidden_size && p.num_layers == num_layers);
                let by_width = hidden_size.div_ceil(64);
                (preset.map_or(by_width, |preset| preset.num_heads), true)
            }
        };

        let head = shape(names.weight(Part::Head, 0))?;
        let classes = head.get(usize::from(!torch)).copied();
        let mut config = VitConfig {
            image_size: ImageSize::square(patch_size),
            patch_size,
            hidden_size,
            num_layers,
            num_heads,
            mlp_dim: mlp_dim.unwrap_or(4 * hidden_size),
            num_classes: classes.unwrap_or(10),
            layer_norm_eps: beside.layer_norm_eps.unwrap_or(names.naming.layer_norm_eps),
            activation: beside.activation(&path)?,
            layer_scale: (!scale.is_empty()).then_some(VitConfig::LAYER_SCALE),
            distillation,
            stem,
            ..VitConfig::default()
        };
        let positions = shape(names.of(Part::Positions, 0))?;
        let said = beside.image_size.or(beside.model_args.img_size);
        let grid = Grid::of(&positions, &config, said).map_or([1, 1], |grid| grid.sides);
        let [height, width] = grid.map(|side| side * patch_size);
        config.image_size = ImageSize { height, width };
        config.validate()?;
        refuse_claims(&config, tensors)?;
        Ok(Self {
            config,
            classes,
            heads_are_guessed,
        })
    }
}

/// Refuses sizes that a file of this length cannot hold, before memory is made for them: a model's
/// weights do not compress.
fn refuse_claims(config: &VitConfig, tensors: &Tensors) -> Result<(), VitError> {
    const MOST: f64 = 64.0;
    let [d, m, layers, inputs, tokens] = [
        config.hidden_size,
        config.mlp_dim,
        config.num_layers,
        config.patch_inputs(),
        config.num_tokens(),
    ]
    .map(|size| size as f64);
    let bytes = 4.0 * (layers * (4.0 * d * d + 2.0 * d * m) + (inputs + tokens) * d);
    if bytes <= MOST * tensors.bytes as f64 {
        Ok(())
    } else {
        Err(unreadable(
            &tensors.path,
            format!(
                "its shapes are those of a model of {bytes:.0} bytes, which a file of {} bytes \
                 cannot hold",
                tensors.bytes
            ),
        ))
    }
}

/// The stem's stages, as the file has them.
fn stem(tensors: &mut Tensors, names: &Names) -> Result<Option<StemConfig>, VitError> {
    let Some(of_stem) = names.naming.stem else {
        return Ok(None);
    };
    let path = tensors.path.clone();
    let mut outputs = |name: &str| -> Result<Option<usize>, VitError> {
        let name = names.of_backbone(name) + names.naming.weight_suffix(false);
        let shape = tensors.shape(&name)?;
        Ok(shape.and_then(|shape| match names.naming.layout {
            Layout::Torch => shape.first().copied(),
            Layout::Jax => shape.last().copied(),
        }))
    };
    let [root, _] = of_stem.root();
    let Some(channels) = outputs(&root)? else {
        return Ok(None);
    };
    let mut stages = Vec::new();
    loop {
        let mut stage = [0, 0];
        let last = |unit| {
            let [_, _, [convolution, _]] = of_stem.layers(stages.len(), unit);
            convolution
        };
        while let Some(channels) = outputs(&last(stage[0]))? {
            stage = [stage[0] + 1, channels];
        }
        match stage {
            [0, _] => return Ok(Some(StemConfig { channels, stages })),
            stage => stages.push(stage),
        }
        let most = *STEM_STAGES.end();
        if stages.len() > most {
            let reason = format!("has more than {most} stages of convolutions before the patches");
            return Err(unreadable(&path, reason));
        }
    }
}

/// The grid of a file's positions.
pub(super) struct Grid {
    /// Rows and columns.
    pub sides: [usize; 2],
    /// Tokens before the patches that have a position too.
    pub prefix: usize,
}

impl Grid {
    /// The grid of positions of `shape`, `[1, tokens, hidden]`: that of an image of size `said`
    /// where that fits, else a square one.
    pub fn of(shape: &[usize], config: &VitConfig, said: Option<ImageSize>) -> Option<Self> {
        let &[1, tokens, width] = shape else {
            return None;
        };
        if width != config.hidden_size {
            return None;
        }
        // Big Vision's CLS has no position.
        [config.num_prefix_tokens(), 0]
            .into_iter()
            .find_map(|prefix| {
                let patches = tokens.checked_sub(prefix)?;
                let side = patches.isqrt();
                let square =
                    (side > 0 && side <= 1024 && side * side == patches).then_some([side; 2]);
                let said =
                    said.map(|size| [size.height, size.width].map(|s| s / config.patch_size));
                let said =
                    said.filter(|[rows, columns]| rows.checked_mul(*columns) == Some(patches));
                let sides = said.filter(|_| patches > 0).or(square)?;
                Some(Self { sides, prefix })
            })
    }
}
