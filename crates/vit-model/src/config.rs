mod image_size;
mod limits;
pub(crate) use limits::STEM_STAGES;

use serde::{Deserialize, Serialize};

use crate::{StemConfig, VitError};

pub use self::image_size::ImageSize;

/// The activation between the two linear layers of an MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Exact GELU, `x * Phi(x)`, as the published ViT has it.
    #[default]
    Gelu,
    /// GELU's approximation by tanh.
    GeluTanh,
}

/// A second token before the patches, which learned from a teacher (Touvron et al., "Training
/// data-efficient image transformers", 2021, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distillation {
    /// It is attended to, and nothing more.
    Token,
    /// It has a head of its own; the logits are the mean of both heads'.
    TokenAndHead,
}

/// The sizes and constants of a Vision Transformer.
///
/// The fields' defaults are ViT-B/16 at 224 with ten classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VitConfig {
    /// Height and width of the input images, in pixels.
    pub image_size: ImageSize,
    /// Height and width of a patch, in pixels; divides both of `image_size`.
    pub patch_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Attention heads of each block; divides `hidden_size`.
    pub num_heads: usize,
    /// Width between the two linear layers of each MLP.
    pub mlp_dim: usize,
    /// Outputs of the classification head; 0 is no head: the model answers with its features.
    pub num_classes: usize,
    /// Epsilon of every layer norm (1e-6 in Google's and timm's ViT, 1e-12 in Hugging Face's).
    pub layer_norm_eps: f64,
    /// Dropout after the embeddings and after both linear layers of each MLP; training only.
    pub dropout: f64,
    /// The MLPs' activation.
    pub activation: Activation,
    /// Each half of a block is scaled channel by channel before it is added, starting with this
    /// (LayerScale; Touvron et al., "Going deeper with Image Transformers", 2021, section 2);
    /// none: there is no such scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// DeiT's distillation token; none: CLS alone stands before the patches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// The convolutions of a hybrid model; none: patches are made of pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stem: Option<StemConfig>,
}

impl Default for VitConfig {
    fn default() -> Self {
        VitPreset::B16.config()
    }
}

impl VitConfig {
    /// With what DINOv2's LayerScale starts.
    pub const LAYER_SCALE: f64 = 1e-5;

    /// Rows and columns of patches.
    pub fn grid(&self) -> [usize; 2] {
        let ImageSize { height, width } = self.image_size;
        [height / self.patch_size, width / self.patch_size]
    }

    /// Patches of an image.
    pub fn num_patches(&self) -> usize {
        let [rows, columns] = self.grid();
        rows * columns
    }

    /// Tokens before the patches, which are never removed: CLS, and the distillation token where
    /// there is one.
    pub fn num_prefix_tokens(&self) -> usize {
        1 + usize::from(self.distillation.is_some())
    }

    /// Tokens of an image before any is removed: those before the patches, and every patch.
    pub fn num_tokens(&self) -> usize {
        self.num_prefix_tokens() + self.num_patches()
    }

    /// Numbers that a patch is made of.
    pub fn patch_inputs(&self) -> usize {
        let (channels, pixels) = match &self.stem {
            None => (3, self.patch_size),
            Some(stem) => (stem.output_channels(), self.patch_size / stem.reduction()),
        };
        channels * pixels * pixels
    }

    /// Trainable parameters of the model, heads included.
    pub fn num_parameters(&self) -> usize {
        usize::try_from(self.parameters()).unwrap_or(usize::MAX)
    }

    /// The same, also where the machine cannot address as many. Sizes within their limits do not overflow it.
    fn parameters(&self) -> u64 {
        let wide = |size: usize| size as u64;
        let (d, m) = (wide(self.hidden_size), wide(self.mlp_dim));
        let norm = 2 * d;
        let scales = if self.layer_scale.is_some() { 2 * d } else { 0 };
        let block =
            scales + 2 * norm + (d * 3 * d + 3 * d) + (d * d + d) + (d * m + m) + (m * d + d);
        let stem = self.stem.as_ref().map_or(0, StemConfig::num_parameters);
        let tokens = wide(self.num_prefix_tokens() + self.num_tokens()) * d;
        let embedding = wide(stem) + wide(self.patch_inputs()) * d + d + tokens;
        let classes = wide(self.num_classes);
        let head = d * classes + classes;
        embedding + wide(self.num_layers) * block + norm + wide(self.num_heads_on_top()) * head
    }

    /// Classification heads.
    pub fn num_heads_on_top(&self) -> usize {
        if self.num_classes == 0 {
            return 0;
        }
        1 + usize::from(self.distillation == Some(Distillation::TokenAndHead))
    }
}

/// The published model sizes, and small ones for 32x32 images.
///
/// Sizes: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), table 1; Ti and S as in
/// Touvron et al., "Training data-efficient image transformers" (2021), table 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VitPreset {
    /// ViT-Ti/16 at 224.
    Ti16,
    /// ViT-S/16 at 224.
    S16,
    /// ViT-B/16 at 224.
    B16,
    /// ViT-B/32 at 224.
    B32,
    /// ViT-L/16 at 224.
    L16,
    /// ViT-L/32 at 224.
    L32,
    /// ViT-H/14 at 224.
    H14,
    /// ViT-S/14 at 518 with LayerScale, as DINOv2 has it.
    S14,
    /// ViT-B/14 at 518 with LayerScale, as DINOv2 has it.
    B14,
    /// ViT-L/14 at 518 with LayerScale, as DINOv2 has it.
    L14,
    /// R50+ViT-B/16 at 224: the hybrid with a ResNet-50 before its patches.
    R50B16,
    /// Width 64, depth 6, patch 4 at 32: learns simple images in a minute.
    Tiny32,
    /// Width 96, depth 9, patch 4 at 32: for CIFAR from scratch.
    Small32,
}

impl VitPreset {
    /// Every preset.
    pub const ALL: [Self; 13] = [
        Self::Ti16,
        Self::S16,
        Self::B16,
        Self::B32,
        Self::L16,
        Self::L32,
        Self::H14,
        Self::S14,
        Self::B14,
        Self::L14,
        Self::R50B16,
        Self::Tiny32,
        Self::Small32,
    ];

    /// The preset's name, as configs and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ti16 => "vit-ti16",
            Self::S16 => "vit-s16",
            Self::B16 => "vit-b16",
            Self::B32 => "vit-b32",
            Self::L16 => "vit-l16",
            Self::L32 => "vit-l32",
            Self::H14 => "vit-h14",
            Self::S14 => "vit-s14",
            Self::B14 => "vit-b14",
            Self::L14 => "vit-l14",
            Self::R50B16 => "vit-r50-b16",
            Self::Tiny32 => "vit-tiny32",
            Self::Small32 => "vit-small32",
        }
    }

    /// Finds a preset by its name.
    ///
    /// # Errors
    ///
    /// Lists the names there are.
    pub fn from_name(name: &str) -> Result<Self, VitError> {
        let preset = Self::ALL.into_iter().find(|preset| preset.name() == name);
        preset.ok_or_else(|| VitError::UnknownPreset {
            name: name.to_string(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }

    /// The preset's sizes, with ten classes.
    pub fn config(self) -> VitConfig {
        let (image_size, patch_size, hidden_size, num_layers, num_heads, mlp_dim) = match self {
            Self::Ti16 => (224, 16, 192, 12, 3, 768),
            Self::S16 => (224, 16, 384, 12, 6, 1536),
            Self::B16 | Self::R50B16 => (224, 16, 768, 12, 12, 3072),
            Self::B32 => (224, 32, 768, 12, 12, 3072),
            Self::L16 => (224, 16, 1024, 24, 16, 4096),
            Self::L32 => (224, 32, 1024, 24, 16, 4096),
            Self::H14 => (224, 14, 1280, 32, 16, 5120),
            Self::S14 => (518, 14, 384, 12, 6, 1536),
            Self::B14 => (518, 14, 768, 12, 12, 3072),
            Self::L14 => (518, 14, 1024, 24, 16, 4096),
            Self::Tiny32 => (32, 4, 64, 6, 4, 128),
            Self::Small32 => (32, 4, 96, 9, 3, 384),
        };
        VitConfig {
            image_size: ImageSize::square(image_size),
            patch_size,
            hidden_size,
            num_layers,
            num_heads,
            mlp_dim,
            num_classes: 10,
            layer_norm_eps: 1e-6,
            dropout: 0.1,
            activation: Activation::Gelu,
            layer_scale: matches!(self, Self::S14 | Self::B14 | Self::L14)
                .then_some(VitConfig::LAYER_SCALE),
            distillation: None,
            stem: (self == Self::R50B16).then(StemConfig::r50),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_sizes_have_the_published_parameter_counts() {
        // timm's counts of the same models with 1000 classes.
        for (preset, parameters) in [
            (VitPreset::Ti16, 5_717_416),
            (VitPreset::S16, 22_050_664),
            (VitPreset::B16, 86_567_656),
            (VitPreset::B32, 88_224_232),
            (VitPreset::L16, 304_326_632),
            (VitPreset::H14, 632_045_800),
            (VitPreset::R50B16, 98_659_112),
        ] {
            let config = VitConfig {
                num_classes: 1000,
                ..preset.config()
            };
            assert_eq!(config.num_parameters(), parameters, "{}", preset.name());
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_by_name() {
        let config = VitConfig {
            image_size: ImageSize::square(30),
            ..VitPreset::Tiny32.config()
        };
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains("image_size = 30"), "{message}");
        assert!(message.contains("patch_size = 4"), "{message}");
    }

    #[test]
    fn an_unknown_preset_names_the_known_ones() {
        let message = VitPreset::from_name("vit-x").unwrap_err().to_string();
        assert!(message.contains("vit-b16"), "{message}");
    }
}
