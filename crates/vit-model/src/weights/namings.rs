//! How the projects that publish weights name their tensors: one table for each.

use super::naming::{Layout, Naming, Part, PositionResize, StemNames};

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
