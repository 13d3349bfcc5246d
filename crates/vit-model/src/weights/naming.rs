//! How the projects that publish weights name their tensors: one table for each.

use std::collections::BTreeSet;

use crate::{Distillation, StemConfig, VitConfig};

/// What a tensor, or the weight and bias of a layer, is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Patches,
    Cls,
    DistillationToken,
    Positions,
    AttentionNorm,
    /// Queries, keys and values in one layer.
    Qkv,
    Query,
    Key,
    Value,
    AttentionOutput,
    AttentionScale,
    MlpNorm,
    Expand,
    Contract,
    MlpScale,
    Norm,
    Head,
    DistillationHead,
}

impl Part {
    /// A tensor by itself, not the weight and the bias of a layer.
    pub fn is_plain(self) -> bool {
        matches!(
            self,
            Self::Cls
                | Self::DistillationToken
                | Self::Positions
                | Self::AttentionScale
                | Self::MlpScale
        )
    }
}

/// How weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A linear layer's is `[inputs, outputs]`, heads are an axis of their own, a patch's axes are
    /// height, width, channel.
    Jax,
    /// A linear layer's is `[outputs, inputs]`, a patch's axes are channel, height, width.
    Torch,
}

/// How positions are resized to another grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionResize {
    /// Linearly, grid corner to grid corner, as the published code does (`scipy.ndimage.zoom` of
    /// order 1, which for some sizes writes zeros at the far edge; this does not).
    Linear,
    /// Bicubically, as Hugging Face does for DINOv2 (PyTorch's `interpolate`).
    Bicubic,
    /// Bicubically with antialias, as timm does.
    BicubicAntialias,
}

/// A project's names.
#[derive(Debug)]
pub(super) struct Naming {
    /// The project.
    pub name: &'static str,
    pub layout: Layout,
    /// How the project itself resizes positions.
    pub resize: PositionResize,
    /// The layer norms' epsilon, unless a `config.json` says otherwise.
    pub layer_norm_eps: f64,
    /// Groups of rows; `{}` is the block's number.
    pub tables: &'static [&'static [(Part, &'static str)]],
    /// The tensor of this part is there in no other naming.
    pub sure: Part,
    pub stem: Option<&'static StemNames>,
    /// Tensors of pre-training that no fine-tuning needs: their names start with one of these.
    pub left_out: &'static [&'static str],
}

/// How the convolutions of a hybrid model are named.
#[derive(Debug)]
pub(super) struct StemNames {
    pub convolution: &'static str,
    pub norm: &'static str,
    /// What each unit's names start with; the first `{}` is the stage's number, the second the
    /// unit's in it.
    pub unit: &'static str,
    /// The first number.
    pub first: usize,
    /// Within a unit; `{}` is 1, 2 or 3.
    pub unit_convolution: &'static str,
    pub unit_norm: &'static str,
    pub shortcut: &'static str,
    pub shortcut_norm: &'static str,
}

impl StemNames {
    /// A name within a unit (both numbers 0-based).
    fn in_unit(&self, stage: usize, unit: usize, name: &str) -> String {
        let [stage, unit] = [stage, unit].map(|number| (number + self.first).to_string());
        let start = self.unit.replacen("{}", &stage, 1).replacen("{}", &unit, 1);
        start + name
    }

    /// The names of a unit's three convolutions, each with that of the norm after it.
    pub fn layers(&self, stage: usize, unit: usize) -> [[String; 2]; 3] {
        [1, 2, 3].map(|number: usize| {
            [self.unit_convolution, self.unit_norm]
                .map(|name| self.in_unit(stage, unit, &name.replace("{}", &number.to_string())))
        })
    }

    /// The names of the convolution, and of its norm, that a unit's input goes through.
    pub fn shortcut(&self, stage: usize, unit: usize) -> [String; 2] {
        [self.shortcut, self.shortcut_norm].map(|name| self.in_unit(stage, unit, name))
    }

    /// The first convolution and its norm.
    pub fn root(&self) -> [String; 2] {
        [self.convolution, self.norm].map(str::to_string)
    }

    /// Every convolution of a stem, with the norm after it.
    fn all(&self, stem: &StemConfig) -> Vec<[String; 2]> {
        let mut names = vec![self.root()];
        for shape in stem.units() {
            names.extend(self.layers(shape.stage, shape.unit));
            if shape.has_shortcut() {
                names.push(self.shortcut(shape.stage, shape.unit));
            }
        }
        names
    }
}

impl Naming {
    pub fn is_hugging_face(&self) -> bool {
        self.name.starts_with("Hugging Face")
    }

    /// Every part that the project has, and its name.
    pub fn parts(&self) -> impl Iterator<Item = (Part, &'static str)> + use<> {
        self.tables.iter().copied().flatten().copied()
    }

    pub fn weight_suffix(&self, is_norm: bool) -> &'static str {
        match (self.layout, is_norm) {
            (Layout::Torch, _) => ".weight",
            (Layout::Jax, true) => "/scale",
            (Layout::Jax, false) => "/kernel",
        }
    }

    pub fn bias_suffix(&self) -> &'static str {
        match self.layout {
            Layout::Torch => ".bias",
            Layout::Jax => "/bias",
        }
    }
}

/// The names of a file's tensors.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub naming: &'static Naming,
    /// What stands before the backbone's names.
    pub prefix: String,
}

impl Names {
    /// The name of a part, `layer` being the block, if the project has such a part.
    pub fn of(&self, part: Part, layer: usize) -> Option<String> {
        let (_, name) = self.naming.parts().find(|(entry, _)| *entry == part)?;
        let name = name.replace("{}", &layer.to_string());
        // Hugging Face's heads stand beside the backbone, not in it.
        let is_head = matches!(part, Part::Head | Part::DistillationHead);
        Some(match self.naming.is_hugging_face() && is_head {
            true => name,
            false => self.of_backbone(&name),
        })
    }

    pub fn of_backbone(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name of a layer's weight.
    pub fn weight(&self, part: Part, layer: usize) -> Option<String> {
        let is_norm = matches!(part, Part::AttentionNorm | Part::MlpNorm | Part::Norm);
        Some(self.of(part, layer)? + self.naming.weight_suffix(is_norm))
    }

    /// The name of a layer's bias.
    pub fn bias(&self, part: Part, layer: usize) -> Option<String> {
        Some(self.of(part, layer)? + self.naming.bias_suffix())
    }

    /// The name by which a part is recognised.
    pub fn first_of(&self, part: Part) -> Option<String> {
        match part.is_plain() {
            true => self.of(part, 0),
            false => self.weight(part, 0),
        }
    }

    /// The names of everything that a model of these sizes has, heads included.
    pub fn all(&self, config: &VitConfig) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (part, name) in self.naming.parts() {
            let is_there = match part {
                Part::AttentionScale | Part::MlpScale => config.layer_scale.is_some(),
                Part::DistillationToken => config.distillation.is_some(),
                Part::DistillationHead => config.distillation == Some(Distillation::TokenAndHead),
                _ => true,
            };
            let layers = match (is_there, name.contains("{}")) {
                (false, _) => 0,
                (true, true) => config.num_layers,
                (true, false) => 1,
            };
            for layer in 0..layers {
                if part.is_plain() {
                    names.extend(self.of(part, layer));
                } else {
                    names.extend(self.weight(part, layer));
                    names.extend(self.bias(part, layer));
                }
            }
        }
        if let (Some(stem), Some(of_stem)) = (&config.stem, self.naming.stem) {
            for [convolution, norm] in of_stem.all(stem) {
                names.insert(self.of_backbone(&convolution) + self.naming.weight_suffix(false));
                names.insert(self.of_backbone(&norm) + self.naming.weight_suffix(true));
                names.insert(self.of_backbone(&norm) + self.naming.bias_suffix());
            }
        }
        names
    }
}

const GOOGLE_ROWS: &[(Part, &str)] = &[
    (Part::Patches, "embedding"),
    (Part::Cls, "cls"),
    (
        Part::AttentionNorm,
        "Transformer/encoderblock_{}/LayerNorm_0",
    ),
    (Part::Norm, "Transformer/encoder_norm"),
    (Part::Head, "head"),
];

const GOOGLE_STEM: StemNames = StemNames {
    convolution: "conv_root",
    norm: "gn_root",
    unit: "block{}/unit{}/",
    first: 1,
    unit_convolution: "conv{}",
    unit_norm: "gn{}",
    shortcut: "conv_proj",
    shortcut_norm: "gn_proj",
};

const HF_ROWS: &[(Part, &str)] = &[
    (Part::Patches, "embeddings.patch_embeddings.projection"),
    (Part::Cls, "embeddings.cls_token"),
    (Part::Positions, "embeddings.position_embeddings"),
    (Part::Query, "encoder.layer.{}.attention.attention.query"),
    (Part::Key, "encoder.layer.{}.attention.attention.key"),
    (Part::Value, "encoder.layer.{}.attention.attention.value"),
    (
        Part::AttentionOutput,
        "encoder.layer.{}.attention.output.dense",
    ),
    (Part::Norm, "layernorm"),
];

const HF_VIT_ROWS: &[(Part, &str)] = &[
    (Part::AttentionNorm, "encoder.layer.{}.layernorm_before"),
    (Part::MlpNorm, "encoder.layer.{}.layernorm_after"),
    (Part::Expand, "encoder.layer.{}.intermediate.dense"),
    (Part::Contract, "encoder.layer.{}.output.dense"),
];

const HF_DEIT_ROWS: &[(Part, &str)] = &[(Part::DistillationToken, "embeddings.distillation_token")];

pub(super) const TIMM: Naming = Naming {
    name: "timm",
    layout: Layout::Torch,
    resize: PositionResize::BicubicAntialias,
    layer_norm_eps: 1e-6,
    tables: &[&[
        (Part::Patches, "patch_embed.proj"),
        (Part::Cls, "cls_token"),
        (Part::DistillationToken, "dist_token"),
        (Part::Positions, "pos_embed"),
        (Part::AttentionNorm, "blocks.{}.norm1"),
        (Part::Qkv, "blocks.{}.attn.qkv"),
        (Part::AttentionOutput, "blocks.{}.attn.proj"),
        (Part::AttentionScale, "blocks.{}.ls1.gamma"),
        (Part::MlpNorm, "blocks.{}.norm2"),
        (Part::Expand, "blocks.{}.mlp.fc1"),
        (Part::Contract, "blocks.{}.mlp.fc2"),
        (Part::MlpScale, "blocks.{}.ls2.gamma"),
        (Part::Norm, "norm"),
        (Part::Head, "head"),
        (Part::DistillationHead, "head_dist"),
    ]],
    sure: Part::MlpNorm,
    stem: Some(&StemNames {
        convolution: "patch_embed.backbone.stem.conv",
        norm: "patch_embed.backbone.stem.norm",
        unit: "patch_embed.backbone.stages.{}.blocks.{}.",
        first: 0,
        unit_convolution: "conv{}",
        unit_norm: "norm{}",
        shortcut: "downsample.conv",
        shortcut_norm: "downsample.norm",
    }),
    left_out: &["pre_logits.", "mask_token"],
};

pub(super) const HF_VIT: Naming = Naming {
    name: "Hugging Face ViT",
    layout: Layout::Torch,
    resize: PositionResize::Bicubic,
    layer_norm_eps: 1e-12,
    tables: &[HF_ROWS, HF_VIT_ROWS, &[(Part::Head, "classifier")]],
    sure: Part::MlpNorm,
    stem: None,
    left_out: &["pooler.", "embeddings.mask_token"],
};

pub(super) const HF_DEIT: Naming = Naming {
    name: "Hugging Face DeiT",
    tables: &[
        HF_ROWS,
        HF_VIT_ROWS,
        HF_DEIT_ROWS,
        &[(Part::Head, "classifier")],
    ],
    sure: Part::DistillationToken,
    ..HF_VIT
};

pub(super) const HF_DISTILLED: Naming = Naming {
    name: "Hugging Face DeiT with teacher",
    tables: &[
        HF_ROWS,
        HF_VIT_ROWS,
        HF_DEIT_ROWS,
        &[
            (Part::Head, "cls_classifier"),
            (Part::DistillationHead, "distillation_classifier"),
        ],
    ],
    sure: Part::DistillationHead,
    ..HF_VIT
};

pub(super) const HF_DINOV2: Naming = Naming {
    name: "Hugging Face DINOv2",
    layout: Layout::Torch,
    resize: PositionResize::Bicubic,
    layer_norm_eps: 1e-6,
    tables: &[
        HF_ROWS,
        &[
            (Part::AttentionNorm, "encoder.layer.{}.norm1"),
            (
                Part::AttentionScale,
                "encoder.layer.{}.layer_scale1.lambda1",
            ),
            (Part::MlpNorm, "encoder.layer.{}.norm2"),
            (Part::Expand, "encoder.layer.{}.mlp.fc1"),
            (Part::Contract, "encoder.layer.{}.mlp.fc2"),
            (Part::MlpScale, "encoder.layer.{}.layer_scale2.lambda1"),
            (Part::Head, "classifier"),
        ],
    ],
    sure: Part::MlpNorm,
    stem: None,
    left_out: &["embeddings.mask_token"],
};

const GOOGLE: Naming = Naming {
    name: "Google",
    layout: Layout::Jax,
    resize: PositionResize::Linear,
    layer_norm_eps: 1e-6,
    tables: &[
        GOOGLE_ROWS,
        &[
            (Part::Positions, "Transformer/posembed_input/pos_embedding"),
            (
                Part::Query,
                "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/query",
            ),
            (
                Part::Key,
                "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/key",
            ),
            (
                Part::Value,
                "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/value",
            ),
            (
                Part::AttentionOutput,
                "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/out",
            ),
            (Part::MlpNorm, "Transformer/encoderblock_{}/LayerNorm_2"),
            (
                Part::Expand,
                "Transformer/encoderblock_{}/MlpBlock_3/Dense_0",
            ),
            (
                Part::Contract,
                "Transformer/encoderblock_{}/MlpBlock_3/Dense_1",
            ),
        ],
    ],
    sure: Part::MlpNorm,
    stem: Some(&GOOGLE_STEM),
    left_out: &["pre_logits/"],
};

const BIG_VISION: Naming = Naming {
    name: "Google Big Vision",
    tables: &[
        GOOGLE_ROWS,
        &[
            (Part::Positions, "pos_embedding"),
            (
                Part::Query,
                "Transformer/encoderblock_{}/MultiHeadDotProductAttention_0/query",
            ),
            (
                Part::Key,
                "Transformer/encoderblock_{}/MultiHeadDotProductAttention_0/key",
            ),
            (
                Part::Value,
                "Transformer/encoderblock_{}/MultiHeadDotProductAttention_0/value",
            ),
            (
                Part::AttentionOutput,
                "Transformer/encoderblock_{}/MultiHeadDotProductAttention_0/out",
            ),
            (Part::MlpNorm, "Transformer/encoderblock_{}/LayerNorm_1"),
            (
                Part::Expand,
                "Transformer/encoderblock_{}/MlpBlock_0/Dense_0",
            ),
            (
                Part::Contract,
                "Transformer/encoderblock_{}/MlpBlock_0/Dense_1",
            ),
        ],
    ],
    stem: None,
    ..GOOGLE
};

/// Every naming that is known; the one that asks for more comes first.
pub(super) static NAMINGS: [&Naming; 7] = [
    &GOOGLE,
    &BIG_VISION,
    &TIMM,
    &HF_DISTILLED,
    &HF_DEIT,
    &HF_VIT,
    &HF_DINOV2,
];
