//! How the projects that publish weights name their tensors: one table for each.

/// What a tensor, or the weight and bias of a layer, is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Patches,
    Cls,
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
    /// order 1).
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
    /// `{}` is the block's number.
    pub table: &'static [(Part, &'static str)],
    /// Tensors of pre-training that no fine-tuning needs: their names start with one of these.
    pub left_out: &'static [&'static str],
}

impl Naming {
    pub fn is_hugging_face(&self) -> bool {
        self.name.starts_with("Hugging Face")
    }

    /// The name of a part, `layer` being the block, if the project has such a part.
    pub fn of(&self, part: Part, layer: usize) -> Option<String> {
        let entry = self.table.iter().find(|(entry, _)| *entry == part);
        entry.map(|(_, name)| name.replace("{}", &layer.to_string()))
    }

    /// The name of a layer's weight.
    pub fn weight(&self, part: Part, layer: usize) -> Option<String> {
        let is_norm = matches!(part, Part::AttentionNorm | Part::MlpNorm | Part::Norm);
        let suffix = match (self.layout, is_norm) {
            (Layout::Torch, _) => ".weight",
            (Layout::Jax, true) => "/scale",
            (Layout::Jax, false) => "/kernel",
        };
        Some(self.of(part, layer)? + suffix)
    }

    /// The name of a layer's bias.
    pub fn bias(&self, part: Part, layer: usize) -> Option<String> {
        let suffix = match self.layout {
            Layout::Torch => ".bias",
            Layout::Jax => "/bias",
        };
        Some(self.of(part, layer)? + suffix)
    }
}

/// Every naming that is known.
pub(super) static NAMINGS: [Naming; 5] = [
    Naming {
        name: "Google",
        layout: Layout::Jax,
        resize: PositionResize::Linear,
        layer_norm_eps: 1e-6,
        table: &[
            (Part::Patches, "embedding"),
            (Part::Cls, "cls"),
            (Part::Positions, "Transformer/posembed_input/pos_embedding"),
            (
                Part::AttentionNorm,
                "Transformer/encoderblock_{}/LayerNorm_0",
            ),
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
            (Part::Norm, "Transformer/encoder_norm"),
            (Part::Head, "head"),
        ],
        left_out: &["pre_logits/"],
    },
    Naming {
        name: "Google, Big Vision",
        layout: Layout::Jax,
        resize: PositionResize::Linear,
        layer_norm_eps: 1e-6,
        table: &[
            (Part::Patches, "embedding"),
            (Part::Cls, "cls"),
            (Part::Positions, "pos_embedding"),
            (
                Part::AttentionNorm,
                "Transformer/encoderblock_{}/LayerNorm_0",
            ),
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
            (Part::Norm, "Transformer/encoder_norm"),
            (Part::Head, "head"),
        ],
        left_out: &["pre_logits/"],
    },
    Naming {
        name: "timm",
        layout: Layout::Torch,
        resize: PositionResize::BicubicAntialias,
        layer_norm_eps: 1e-6,
        table: &[
            (Part::Patches, "patch_embed.proj"),
            (Part::Cls, "cls_token"),
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
        ],
        left_out: &["pre_logits.", "mask_token"],
    },
    Naming {
        name: "Hugging Face ViT",
        layout: Layout::Torch,
        resize: PositionResize::Bicubic,
        layer_norm_eps: 1e-12,
        table: &[
            (Part::Patches, "embeddings.patch_embeddings.projection"),
            (Part::Cls, "embeddings.cls_token"),
            (Part::Positions, "embeddings.position_embeddings"),
            (Part::AttentionNorm, "encoder.layer.{}.layernorm_before"),
            (Part::Query, "encoder.layer.{}.attention.attention.query"),
            (Part::Key, "encoder.layer.{}.attention.attention.key"),
            (Part::Value, "encoder.layer.{}.attention.attention.value"),
            (
                Part::AttentionOutput,
                "encoder.layer.{}.attention.output.dense",
            ),
            (Part::MlpNorm, "encoder.layer.{}.layernorm_after"),
            (Part::Expand, "encoder.layer.{}.intermediate.dense"),
            (Part::Contract, "encoder.layer.{}.output.dense"),
            (Part::Norm, "layernorm"),
            (Part::Head, "classifier"),
        ],
        left_out: &["pooler.", "embeddings.mask_token"],
    },
    Naming {
        name: "Hugging Face DINOv2",
        layout: Layout::Torch,
        resize: PositionResize::Bicubic,
        layer_norm_eps: 1e-6,
        table: &[
            (Part::Patches, "embeddings.patch_embeddings.projection"),
            (Part::Cls, "embeddings.cls_token"),
            (Part::Positions, "embeddings.position_embeddings"),
            (Part::AttentionNorm, "encoder.layer.{}.norm1"),
            (Part::Query, "encoder.layer.{}.attention.attention.query"),
            (Part::Key, "encoder.layer.{}.attention.attention.key"),
            (Part::Value, "encoder.layer.{}.attention.attention.value"),
            (
                Part::AttentionOutput,
                "encoder.layer.{}.attention.output.dense",
            ),
            (
                Part::AttentionScale,
                "encoder.layer.{}.layer_scale1.lambda1",
            ),
            (Part::MlpNorm, "encoder.layer.{}.norm2"),
            (Part::Expand, "encoder.layer.{}.mlp.fc1"),
            (Part::Contract, "encoder.layer.{}.mlp.fc2"),
            (Part::MlpScale, "encoder.layer.{}.layer_scale2.lambda1"),
            (Part::Norm, "layernorm"),
            (Part::Head, "classifier"),
        ],
        left_out: &["embeddings.mask_token"],
    },
];
