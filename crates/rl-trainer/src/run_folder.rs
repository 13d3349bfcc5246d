use std::fs;
use std::path::{Path, PathBuf};

use apt_data::Normalization;
use apt_vit_model::VitConfig;
use burn::module::Module;
use burn::prelude::*;
use burn::store::ModuleRecord;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointFolder, CheckpointSet};
use crate::config::ExperimentConfig;
use crate::metric_log::read_averages;
use crate::{PruningVit, TrainerError};

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The one that was most accurate with agents acting, on the held-out images.
    #[default]
    BestPruned,
    /// The one that was most accurate dense, on the held-out images.
    BestDense,
    /// The newest.
    Last,
}

/// What a run says of itself, so that inference needs nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunDescription {
    /// The model's sizes.
    pub model: VitConfig,
    /// The blocks (0-based) after which agents act.
    pub agent_layers: Vec<usize>,
    /// The threshold that it was trained with.
    pub threshold: f64,
    /// The classes, in the order of the logits.
    pub class_names: Vec<String>,
    /// How images are normalised.
    pub normalization: Normalization,
    /// Where the user's data was; none where it is downloaded or generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
}

/// A folder that holds a run: `config.toml`, `run.json`, `checkpoints/`, `metrics.jsonl`,
/// `tensorboard/` and at the end `summary.json`.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The resolved config.
    pub config: ExperimentConfig,
    /// What inference needs.
    pub description: RunDescription,
}

impl RunFolder {
    /// Creates the folder of a new run.
    ///
    /// # Errors
    ///
    /// Where there is a run already, or the folder cannot be written.
    pub fn create(
        path: &Path,
        config: ExperimentConfig,
        description: RunDescription,
    ) -> Result<Self, TrainerError> {
        if path.join("config.toml").exists() {
            return Err(TrainerError::RunFolder {
                path: path.to_path_buf(),
                reason: "holds a run already; continue it with --resume, or name another folder with --out".into(),
            });
        }
        fs::create_dir_all(path).map_err(TrainerError::io(path, "create"))?;
        let run = Self {
            path: path.to_path_buf(),
            config,
            description,
        };
        run.write("run.json", &to_json(&run.description))?;
        // Last: a folder with a config is a run.
        run.write("config.toml", &run.config.to_toml()?)?;
        Ok(run)
    }

    /// Opens the folder of a run.
    ///
    /// # Errors
    ///
    /// Where it is none, or is damaged.
    pub fn open(path: &Path) -> Result<Self, TrainerError> {
        let wrong = |reason: String| TrainerError::RunFolder {
            path: path.to_path_buf(),
            reason,
        };
        let config = path.join("config.toml");
        if !config.is_file() {
            return Err(wrong("is no run folder: it has no config.toml".into()));
        }
        let description = path.join("run.json");
        let text = fs::read_to_string(&description);
        let text = text.map_err(TrainerError::io(&description, "read"))?;
        Ok(Self {
            path: path.to_path_buf(),
            config: ExperimentConfig::load(&config, &[])?,
            description: serde_json::from_str(&text)
                .map_err(|error| wrong(format!("run.json is damaged: {error}")))?,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> CheckpointFolder {
        CheckpointFolder::new(
            self.path.join("checkpoints"),
            self.config.train.steps_per_epoch,
        )
    }

    /// The checkpoint of a choice.
    ///
    /// # Errors
    ///
    /// Where there is none yet.
    pub fn checkpoint(&self, choice: Choice) -> Result<CheckpointSet, TrainerError> {
        let none = || TrainerError::RunFolder {
            path: self.path.clone(),
            reason: "has no complete checkpoint yet; continue the training with --resume".into(),
        };
        let checkpoints = self.checkpoints();
        let metric = match choice {
            Choice::BestPruned => "pruned_accuracy",
            Choice::BestDense => "dense_accuracy",
            Choice::Last => return checkpoints.newest()?.ok_or_else(none),
        };
        let averages = read_averages(&self.path)?;
        let sets = checkpoints.all()?.into_iter();
        let scored = sets.filter_map(|set| {
            let key = ("valid".to_string(), set.epoch?, metric.to_string());
            Some((*averages.get(&key)?, set))
        });
        // The first of equals, as burn-train's strategy keeps it.
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        match best {
            Some((_, set)) => Ok(set),
            None => checkpoints.newest()?.ok_or_else(none),
        }
    }

    /// The model of a checkpoint, on `device`, without autodiff.
    ///
    /// # Errors
    ///
    /// Where the checkpoint does not load.
    pub fn load_model(
        &self,
        checkpoint: &CheckpointSet,
        device: &Device,
    ) -> Result<PruningVit, TrainerError> {
        let path = checkpoint.file("model");
        let failed = |reason: String| TrainerError::Checkpoint {
            path: path.clone(),
            reason,
        };
        let mut config = self.config.clone();
        config.model.pretrained = None;
        let classes = self.description.class_names.len();
        let model = PruningVit::new(&config, classes, device)?;
        let record = ModuleRecord::load(&path).map_err(|error| failed(error.to_string()))?;
        let model = model
            .try_load_record(record)
            .map_err(|error| failed(format!("{error}; it does not fit the run's config.toml")))?;
        Ok(model.valid())
    }

    /// Writes a file of the run, whole or not at all.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), TrainerError> {
        let path = self.path.join(name);
        let partial = self.path.join(format!("{name}.partial"));
        fs::write(&partial, text).map_err(TrainerError::io(&path, "write"))?;
        fs::rename(&partial, &path).map_err(TrainerError::io(&path, "write"))
    }
}

/// Indented JSON, with a newline at its end.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    text + "\n"
}
