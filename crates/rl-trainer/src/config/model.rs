use std::path::PathBuf;

use apt_data::Progress;
use apt_vit_model::{
    Activation, Checkpoint, Distillation, ImageSize, KnownCheckpoint, PositionResize, StemConfig,
    VitConfig, VitPreset,
};
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::run::{is_cached, locate_weights};

/// Classes of a model whose data are not read yet.
const SOME_CLASSES: usize = 10;

/// `[model]`: a preset, and what is different from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The preset's name.
    pub preset: String,
    /// Pixels of an image's side, or `[height, width]`.
    pub image_size: Option<ImageSize>,
    /// Pixels of a patch's side.
    pub patch_size: Option<usize>,
    /// Width of a token.
    pub hidden_size: Option<usize>,
    /// Blocks.
    pub num_layers: Option<usize>,
    /// Attention heads.
    pub num_heads: Option<usize>,
    /// Width within each MLP.
    pub mlp_dim: Option<usize>,
    /// Dropout in training.
    pub dropout: Option<f64>,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: Option<f64>,
    /// Activation of the MLPs.
    pub activation: Option<Activation>,
    /// LayerScale's start value.
    pub layer_scale: Option<f64>,
    /// A distillation token beside CLS.
    pub distillation: Option<Distillation>,
    /// Convolutions before the patches.
    pub stem: Option<StemConfig>,
    /// Weights to start from: Google's `.npz`, or timm's or Hugging Face's safetensors or PyTorch
    /// checkpoint (a file, or Hugging Face's folder), or a name that `aptvit fetch` lists, which is
    /// downloaded. Unset keys above take the weights' values. The
    /// head starts fresh.
    pub pretrained: Option<PathBuf>,
    /// A run of this program whose model to start from, head included: its best dense checkpoint. The policy
    /// starts fresh.
    pub init_from_run: Option<PathBuf>,
    /// How their positions are resized; as their project does it where absent.
    pub pos_embed_resize: Option<PositionResize>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            preset: "vit-b16".into(),
            image_size: None,
            patch_size: None,
            hidden_size: None,
            num_layers: None,
            num_heads: None,
            mlp_dim: None,
            dropout: None,
            layer_norm_eps: None,
            activation: None,
            layer_scale: None,
            distillation: None,
            stem: None,
            pretrained: None,
            init_from_run: None,
            pos_embed_resize: None,
        }
    }
}

impl ModelConfig {
    /// Takes from the pretrained weights what is not said: the config then stands without them.
    ///
    /// # Errors
    ///
    /// Where the weights cannot be read.
    pub fn complete(&mut self) -> Result<(), TrainerError> {
        let Some(checkpoint) = self.checkpoint()? else {
            return Ok(());
        };
        let found = checkpoint.config().clone();
        if self.num_heads.is_none() && checkpoint.info().heads_are_guessed {
            tracing::warn!(
                "the pretrained weights do not say how many attention heads there are; taking {}, \
                 unless model.num_heads says otherwise",
                found.num_heads
            );
        }
        self.image_size.get_or_insert(found.image_size);
        self.patch_size.get_or_insert(found.patch_size);
        self.hidden_size.get_or_insert(found.hidden_size);
        self.num_layers.get_or_insert(found.num_layers);
        self.num_heads.get_or_insert(found.num_heads);
        self.mlp_dim.get_or_insert(found.mlp_dim);
        self.layer_norm_eps.get_or_insert(found.layer_norm_eps);
        self.activation.get_or_insert(found.activation);
        self.layer_scale = self.layer_scale.or(found.layer_scale);
        self.distillation = self.distillation.or(found.distillation);
        self.stem = self.stem.take().or(found.stem);
        Ok(())
    }

    /// Can the model be made without a download?
    pub fn is_at_hand(&self) -> bool {
        let name = self.pretrained.as_deref();
        let known = name.filter(|path| !path.exists());
        let known = known.and_then(|path| KnownCheckpoint::from_name(path.to_str()?));
        known.is_none_or(is_cached)
    }

    /// The pretrained weights, if there are any.
    ///
    /// # Errors
    ///
    /// Where they cannot be found or read.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, TrainerError> {
        let open = |path: &PathBuf| -> Result<Checkpoint, TrainerError> {
            Ok(Checkpoint::open(&locate_weights(path, Progress::Bar)?)?)
        };
        self.pretrained.as_ref().map(open).transpose()
    }

    /// The sizes, for `num_classes` classes.
    ///
    /// # Errors
    ///
    /// Where there is no such preset, or the sizes do not fit together.
    pub fn resolve(&self, num_classes: usize) -> Result<VitConfig, TrainerError> {
        let config = self.sizes(num_classes)?;
        let wrong = config.wrong_values().into_iter();
        TrainerError::all(wrong.map(TrainerError::of_model).collect())?;
        Ok(config)
    }

    /// What is wrong with the sizes that are said, before any weights are read: these may bring sizes of their own.
    pub(super) fn wrong_values(&self) -> Vec<TrainerError> {
        let alone = self.pretrained.is_none();
        match self.sizes(SOME_CLASSES) {
            Err(error) => vec![error],
            Ok(sizes) if alone => {
                let wrong = sizes.wrong_values().into_iter();
                wrong.map(TrainerError::of_model).collect()
            }
            Ok(sizes) => {
                let wrong = sizes.out_of_range().into_iter();
                wrong.map(TrainerError::of_model).collect()
            }
        }
    }

    /// The blocks of the model, where no weights have to be read to know.
    pub(super) fn known_layers(&self) -> Option<usize> {
        let alone = self.pretrained.is_none();
        let preset = || Some(VitPreset::from_name(&self.preset).ok()?.config().num_layers);
        self.num_layers.or_else(|| alone.then(preset).flatten())
    }

    /// The preset's sizes, and what is different from them.
    fn sizes(&self, num_classes: usize) -> Result<VitConfig, TrainerError> {
        let preset = VitPreset::from_name(&self.preset)?.config();
        Ok(VitConfig {
            image_size: self.image_size.unwrap_or(preset.image_size),
            patch_size: self.patch_size.unwrap_or(preset.patch_size),
            hidden_size: self.hidden_size.unwrap_or(preset.hidden_size),
            num_layers: self.num_layers.unwrap_or(preset.num_layers),
            num_heads: self.num_heads.unwrap_or(preset.num_heads),
            mlp_dim: self.mlp_dim.unwrap_or(preset.mlp_dim),
            num_classes,
            layer_norm_eps: self.layer_norm_eps.unwrap_or(preset.layer_norm_eps),
            dropout: self.dropout.unwrap_or(preset.dropout),
            activation: self.activation.unwrap_or(preset.activation),
            layer_scale: self.layer_scale.or(preset.layer_scale),
            distillation: self.distillation.or(preset.distillation),
            stem: self.stem.clone().or(preset.stem),
        })
    }
}
