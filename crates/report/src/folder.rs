//! What a folder holds: a run, a sweep, a pruned or an exported model. Any of its files may be missing.

use std::path::{Path, PathBuf};

use apt_data::read_text;
use apt_inference::{Run, verify};
use apt_rl_trainer::sweep::{Cell, CellFolder};
use apt_vit_model::printable_text;
use serde_json::Value;

use crate::ReportError;
use crate::document::{DIFFERS, Document};
use crate::metrics::{self, Metrics};
use crate::pruning::PRUNING;
use crate::training::Training;

/// The resolved config of a run.
pub const CONFIG: &str = "config.toml";
const SUMMARY: &str = "summary.json";
const SWEEP: &str = "sweep.json";
const CELLS: &str = "cells";
const CHECKPOINTS: &str = "checkpoints";
/// An exported model's description and weights.
const MODEL: &str = "aptvit.json";
const WEIGHTS: &str = "model.safetensors";

/// What a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A training.
    Run,
    /// Policies that were compared.
    Sweep,
    /// A model that `aptvit prune` or `aptvit export` wrote.
    Model,
}

/// A folder's files, as far as they can be read.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Its name, without unprintable characters.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What is missing or damaged, a sentence each.
    pub problems: Vec<String>,
    /// `run.json`, or `aptvit.json`: what the model is.
    pub description: Document,
    /// `summary.json`: what a finished training measured.
    pub summary: Document,
    /// `budgets.json`: what was calibrated.
    pub budgets: Document,
    /// `pruning.json`: what `aptvit prune` found.
    pub pruning: Document,
    /// `sweep.json`: the settings that all trainings of a sweep share.
    pub sweep: Document,
    /// `config.toml`.
    pub config: Option<String>,
    /// `metrics.jsonl`.
    pub metrics: Metrics,
    /// The cells of a sweep.
    pub cells: Vec<Cell>,
    /// One of a sweep's trainings.
    pub training: Option<Training>,
}

impl Folder {
    /// Reads the folder's files, and names those that are missing or damaged in `problems`.
    ///
    /// # Errors
    ///
    /// Where there is no such folder, or nothing in it that this program wrote.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        if !path.is_dir() {
            let reason = if path.exists() {
                "is a file; expected the folder of a run, of a sweep, or of a pruned or exported model"
            } else {
                "there is no such folder"
            };
            return Err(ReportError::folder(path, reason));
        }
        let kind = kind(path).ok_or_else(|| {
            let reason = format!(
                "holds nothing to report on; expected the folder of a run ({}, {CONFIG}), of a sweep ({SWEEP}, {CELLS}/), or of \
                 a pruned or exported model ({MODEL})",
                Run::FILE
            );
            ReportError::folder(path, reason)
        })?;
        let mut problems = Vec::new();
        let mut read = |file: &str| Document::read(path, file, &mut problems);
        let description = read(match kind {
            Kind::Model => MODEL,
            Kind::Run | Kind::Sweep => Run::FILE,
        });
        let [summary, budgets, pruning, sweep] =
            [SUMMARY, "budgets.json", PRUNING, SWEEP].map(read);
        let config = read_config(&path.join(CONFIG), &mut problems);
        let metrics = Metrics::read(path, &mut problems);
        let cells = match CellFolder::new(path).all() {
            Ok(cells) => cells,
            Err(error) => {
                problems.push(format!("the sweep's cells cannot be read: {error}"));
                Vec::new()
            }
        };
        let mut folder = Self {
            path: path.to_path_buf(),
            name: name(path),
            kind,
            problems,
            description,
            summary,
            budgets,
            pruning,
            sweep,
            config,
            metrics,
            cells,
            training: (kind == Kind::Sweep)
                .then(|| Training::first(path))
                .flatten(),
        };
        folder.name_what_is_missing();
        Ok(folder)
    }

    /// What people call it.
    pub fn noun(&self) -> &'static str {
        match self.kind {
            Kind::Run => "training run",
            Kind::Sweep => "sweep of policies",
            Kind::Model if self.pruning.is_there() => "pruned model",
            Kind::Model => "exported model",
        }
    }

    /// A section of the config; `null` if there is none.
    pub fn setting(&self, section: &str) -> Value {
        let config = Document::toml(CONFIG, self.config.as_deref().unwrap_or_default());
        config.value.get(section).cloned().unwrap_or_default()
    }

    /// The policy's name. The description has a table with the name and the settings, or the name alone.
    pub fn policy(&self) -> Option<&str> {
        let description = &self.description;
        let name = description.text("/policy/name");
        name.or_else(|| description.text("/policy"))
    }

    fn name_what_is_missing(&mut self) {
        let known = |file: &str| self.problems.iter().any(|problem| problem.contains(file));
        let mut missing = Vec::new();
        let mut expect = |there: bool, file: &str, sentence: &str| {
            if !there && !known(file) {
                missing.push(format!("{file} is missing: {sentence}"));
            }
        };
        match self.kind {
            Kind::Run => {
                let of_model = "the model and the policy are unknown, and the model cannot run";
                expect(self.description.is_there(), Run::FILE, of_model);
                expect(
                    self.config.is_some(),
                    CONFIG,
                    "the settings of the training are unknown",
                );
                expect(
                    !self.metrics.is_empty(),
                    metrics::FILE,
                    "there are no curves",
                );
                let logged = self.metrics.last_step();
                let logged = logged.map_or(String::new(), |step| {
                    format!("; its log ends with step {step}")
                });
                let unfinished = format!("the training has not come to its end{logged}");
                expect(self.summary.is_there(), SUMMARY, &unfinished);
                let checkpoints = self.path.join(CHECKPOINTS).is_dir();
                expect(checkpoints, CHECKPOINTS, "the run has no weights");
            }
            Kind::Model => {
                let of_model = "the model and the policy are unknown, and the model cannot run";
                expect(self.description.is_there(), MODEL, of_model);
                let weights = self.path.join(WEIGHTS).is_file();
                expect(weights, WEIGHTS, "the model has no weights");
            }
            Kind::Sweep => {
                let start = "the start of the trainings is unknown";
                expect(self.sweep.is_there(), SWEEP, start);
                expect(!self.cells.is_empty(), CELLS, "nothing was measured yet");
            }
        }
        self.problems.extend(missing);
    }
}

/// The text of the config, unparsed.
fn read_config(path: &Path, problems: &mut Vec<String>) -> Option<String> {
    if !path.exists() {
        return None;
    }
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(format!("{CONFIG} cannot be read: {error}"));
            return None;
        }
    };
    if let Err(error) = verify(path, DIFFERS) {
        problems.push(error.to_string());
    }
    if let Err(error) = toml::from_str::<toml::Table>(&text) {
        problems.push(format!("{CONFIG} is damaged: {}", error.message()));
    }
    Some(text)
}

fn kind(path: &Path) -> Option<Kind> {
    let has = |files: &[&str]| files.iter().any(|file| path.join(file).exists());
    let kinds = [
        (Kind::Sweep, &[SWEEP, CELLS][..]),
        (Kind::Model, &[MODEL, PRUNING]),
        (
            Kind::Run,
            &[
                Run::FILE,
                CONFIG,
                SUMMARY,
                metrics::FILE,
                CHECKPOINTS,
                "tensorboard",
            ],
        ),
    ];
    let found = kinds.into_iter().find(|(_, files)| has(files));
    found.map(|(kind, _)| kind)
}

/// The folder's own name, also where the path is `.`.
fn name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = whole.file_name().unwrap_or(path.as_os_str());
    printable_text(&name.to_string_lossy())
}
