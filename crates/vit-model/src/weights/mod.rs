//! Published checkpoints: whose they are, what model they hold, how they get into ours, and how
//! ours get out.
#![allow(clippy::disallowed_methods)] // weights cross when they are loaded and saved

mod export;
mod known;
mod load;
mod naming;
mod namings;
mod pickle;
mod plain_file;
mod positions;
mod sizes;
mod stored;
mod tensors;

use std::path::{Path, PathBuf};

use serde::Serialize;

use self::naming::{Names, Naming, Part};
use self::namings::NAMINGS;
use self::sizes::{ConfigBeside, Sizes};
use self::tensors::{Tensors, unreadable};
use crate::{VitConfig, VitError};

pub use self::export::{ExportDetails, ExportNaming, Exported, export};
pub use self::known::{KNOWN_CHECKPOINTS, KnownCheckpoint};
pub use self::naming::PositionResize;
pub use self::stored::{NamedTensors, write_safetensors};
pub use self::tensors::WeightsFormat;

/// What to do with a checkpoint's classification heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointHead {
    /// Load it; it has to fit.
    Load,
    /// Leave the model's own, which starts at zero: fine-tuning to other classes.
    Fresh,
}

/// A weights file whose naming is known: Google's `.npz`, timm's and Hugging Face's ViT, DeiT and
/// DINOv2 as safetensors or PyTorch checkpoints.
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
    names: Names,
    sizes: Sizes,
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
    /// The number of attention heads is a guess (as the preset of this width and depth has it, or 64
    /// channels each): nothing in the file or beside it says it.
    pub heads_are_guessed: bool,
    /// Tensors that loading leaves out.
    pub left_out: Vec<String>,
    /// Tensors that no model of ours has: loading refuses them.
    pub unexpected: Vec<String>,
}

impl Checkpoint {
    /// Opens a weights file, or a folder as Hugging Face lays one out, and reads its sizes.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, or holds no Vision Transformer that is known.
    pub fn open(path: &Path) -> Result<Self, VitError> {
        Self::of(Tensors::open(path)?, ConfigBeside::read)
    }

    /// The same of a safetensors file in memory, with the `config.json` that lies beside it if there is one.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_safetensors(
        weights: Vec<u8>,
        config_json: Option<&[u8]>,
    ) -> Result<Self, VitError> {
        Self::of(Tensors::from_safetensors(weights)?, |path, _| {
            ConfigBeside::parse(config_json.unwrap_or(b"{}"), path)
        })
    }

    /// `beside` reads what lies beside the weights.
    fn of(
        mut tensors: Tensors,
        beside: impl FnOnce(&Path, &Naming) -> Result<ConfigBeside, VitError>,
    ) -> Result<Self, VitError> {
        let names = recognise(&tensors).ok_or_else(|| {
            let known = NAMINGS.map(|naming| naming.name).join(", ");
            let some: Vec<String> = tensors.names().into_iter().take(3).collect();
            let found = some.join(", ");
            let reason = format!("no tensors named as in a ViT of {known}; found {found}, ...");
            unreadable(&tensors.path, reason)
        })?;
        let beside = beside(&tensors.path, names.naming)?;
        let sizes = Sizes::read(&mut tensors, &names, &beside)?;
        Ok(Self {
            tensors,
            names,
            sizes,
        })
    }

    /// The model's sizes, as the tensors have them. Without a head, there are ten classes.
    pub fn config(&self) -> &VitConfig {
        &self.sizes.config
    }

    /// What the file is.
    pub fn info(&self) -> CheckpointInfo {
        let mut names = self.tensors.names();
        names.sort();
        let known = self.names.all(self.config());
        let extra = names.into_iter();
        let extra = extra.filter(|name| !known.contains(name) && !self.tensors.is_scale(name));
        let (left_out, unexpected) = extra.partition(|name| self.is_left_out(name));
        CheckpointInfo {
            path: self.tensors.path.clone(),
            format: self.tensors.format,
            naming: self.names.naming.name,
            config: self.sizes.config.clone(),
            classes: self.sizes.classes,
            heads_are_guessed: self.sizes.heads_are_guessed,
            left_out,
            unexpected,
        }
    }

    /// A tensor's values, which have to be finite numbers: one NaN makes every answer NaN.
    fn finite(&mut self, name: &str) -> Result<Vec<f32>, VitError> {
        let values = self.tensors.read(name)?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(element) => Err(unreadable(
                &self.tensors.path,
                format!(
                    "tensor '{name}' is {} at element {element}, expected finite numbers: the file is damaged, or its \
                     training diverged; take another file",
                    values[element]
                ),
            )),
        }
    }

    /// Refuses tensors that the model has no place for.
    fn refuse_others(&mut self, config: &VitConfig) -> Result<(), VitError> {
        let known = self.names.all(config);
        for name in self.tensors.names() {
            if self.is_left_out(&name) {
                tracing::info!("{}: '{name}' is left out", self.tensors.path.display());
            } else if !known.contains(&name) && !self.tensors.is_scale(&name) {
                return Err(VitError::UnexpectedTensor {
                    path: self.tensors.path.clone(),
                    found: self.tensors.shape(&name)?.unwrap_or_default(),
                    tensor: name,
                });
            }
        }
        Ok(())
    }

    fn is_left_out(&self, name: &str) -> bool {
        let name = name.strip_prefix(&self.names.prefix).unwrap_or(name);
        let mut left_out = self.names.naming.left_out.iter();
        left_out.any(|start| name.starts_with(start))
    }
}

/// The names that the file has.
fn recognise(tensors: &Tensors) -> Option<Names> {
    let found = tensors.names();
    NAMINGS.iter().find_map(|&naming| {
        let bare = Names {
            naming,
            prefix: String::new(),
        };
        let patches = bare.first_of(Part::Patches)?;
        let mut found = found.iter();
        let names = Names {
            naming,
            prefix: found
                .find_map(|name| name.strip_suffix(&patches))?
                .to_string(),
        };
        let mut sure = [Part::MlpNorm, naming.sure].into_iter();
        let is_it = sure.all(|part| {
            let name = names.first_of(part);
            name.is_some_and(|name| tensors.contains(&name))
        });
        is_it.then_some(names)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn weights_that_are_no_numbers_are_refused_by_the_tensors_name() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/timm-vit");
        let config = std::fs::read(fixture.join("config.json")).unwrap();
        let sound = std::fs::read(fixture.join("model.safetensors")).unwrap();
        let load = |bytes: Vec<u8>| {
            let mut checkpoint = Checkpoint::from_safetensors(bytes, Some(&config)).unwrap();
            let sizes = checkpoint.config().clone();
            let vit = sizes.init(&Device::default()).unwrap();
            checkpoint.load(vit, &sizes, CheckpointHead::Load, None)
        };
        load(sound.clone()).unwrap();
        let header = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
        for (place, value, word) in [
            (header, f32::NAN, "NaN"),
            (sound.len() - 4, f32::INFINITY, "inf"),
        ] {
            let mut damaged = sound.clone();
            damaged[place..place + 4].copy_from_slice(&value.to_le_bytes());
            let error = load(damaged).unwrap_err().to_string();
            assert!(
                error.contains("tensor '") && error.contains(word),
                "{error}"
            );
        }
    }

    /// A copy of a fixture, the lowest bit of a byte changed, so far behind its middle.
    fn flipped(fixture: &str, behind: usize) -> (tempfile::TempDir, PathBuf) {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut bytes = std::fs::read(fixtures.join(fixture)).unwrap();
        let place = bytes.len() / 2 / 4 * 4 + behind;
        bytes[place] ^= 1;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Path::new(fixture).file_name().unwrap());
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn loaded(path: &Path) -> Result<(), VitError> {
        let mut checkpoint = Checkpoint::open(path)?;
        let sizes = VitConfig {
            num_heads: 2,
            ..checkpoint.config().clone()
        };
        let vit = sizes.init(&Device::default())?;
        checkpoint.load(vit, &sizes, CheckpointHead::Load, None)?;
        Ok(())
    }

    #[test]
    fn one_bit_of_an_archives_values_that_changed_is_noticed() {
        // The lowest bit of a float: it is still a number.
        for (fixture, behind) in [
            ("google-npz/weights.npz", 137),
            ("timm-vit-pth/model.pth", 0),
        ] {
            let (_folder, path) = flipped(fixture, behind);
            let error = loaded(&path).unwrap_err().to_string();
            assert!(error.contains("the file is damaged"), "{fixture}: {error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn weights_in_a_pipe_or_on_a_device_are_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("model.safetensors");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [Path::new("/dev/zero"), &pipe] {
            let error = loaded(path).unwrap_err().to_string();
            assert!(error.contains("expected a plain file"), "{error}");
        }
    }
}
