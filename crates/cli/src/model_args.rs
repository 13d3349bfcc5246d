//! Which model, and how much it prunes: what `eval`, `infer` and `bench` take.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use apt_inference::{Choice, Model, OpenOptions};
use apt_pruning_agent::{BudgetUse, PolicyConfig, Selection};
use clap::{Args, ValueEnum};

use crate::device;
use crate::global::Global;
use crate::values::{probability, share};

/// Which model, and how much it prunes.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A run's folder, an exported folder, or published weights with a head
    #[arg(long, visible_alias = "model", value_name = "PATH")]
    pub run: PathBuf,
    /// Compute this share of the dense model's FLOPs [default: the first one that it was trained for]; adaptive agents
    /// are calibrated for it first, by `aptvit calibrate`
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub flops: Option<f64>,
    /// Another policy than the model's own, its weights fresh; `aptvit info --policies` lists them
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// A token goes where its removal is more probable than this, without a budget [default: the run's]
    #[arg(long, value_name = "P", value_parser = probability, conflicts_with = "flops")]
    pub threshold: Option<f64>,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint: Which,
    /// What the model's classes are called, one a line in the order of its outputs; other names of a class before it,
    /// with tabs [default: as the run or the weights say]
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
}

impl ModelArgs {
    /// Opens the model, on the chosen device.
    pub fn open(&self, global: &Global) -> Result<Model> {
        let device = device::open();
        let options = OpenOptions {
            checkpoint: self.checkpoint.into(),
            precision: global.dtype,
        };
        let mut model = Model::open_with(&self.run, options, &device)?;
        if let Some(file) = &self.classes {
            let names = self.class_names(&model)?;
            let last = names.into_iter().filter_map(|mut names| names.pop());
            model = model
                .with_class_names(last.collect())
                .with_context(|| file.display().to_string())?;
        }
        if let Some(name) = &self.policy {
            let policy = PolicyConfig::named(name).context("--policy")?;
            match (policy.entry().budget, self.flops) {
                (BudgetUse::Impossible, Some(_)) => {
                    bail!("--policy {name}: removes nothing, so that it meets no --flops")
                }
                (BudgetUse::Needed, None) => {
                    bail!("--policy {name}: say how much it is to compute, as in --flops 0.5")
                }
                _ => model = model.with_policy(policy)?,
            }
        }
        match (self.threshold, self.flops) {
            (Some(threshold), _) => {
                let policy = &model.description().policy;
                if !matches!(policy.without_budget(), Selection::Threshold { .. }) {
                    bail!(
                        "--threshold: the policy {} has none; use --flops",
                        policy.name()
                    );
                }
                model.select(Selection::Threshold { threshold });
            }
            (None, Some(share)) => {
                model.prune_to(share)?;
            }
            (None, None) => {
                let usual = model.selection_for(None)?;
                model.select(usual);
            }
        }
        Ok(model)
    }
}

impl ModelArgs {
    /// All names of each of the model's classes.
    pub fn class_names(&self, model: &Model) -> Result<Vec<Vec<String>>> {
        let Some(file) = &self.classes else {
            let names = model.class_names().iter();
            return Ok(names.map(|name| vec![name.clone()]).collect());
        };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{}: cannot read it", file.display()))?;
        let names = |line: &str| {
            line.split('\t')
                .map(|name| name.trim().to_string())
                .collect()
        };
        Ok(text.lines().map(names).collect())
    }
}

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Which {
    /// Most accurate with the policy acting, on the held-out images
    #[default]
    BestPruned,
    /// Most accurate dense, on the held-out images
    BestDense,
    /// The newest
    Last,
}

impl From<Which> for Choice {
    fn from(which: Which) -> Self {
        match which {
            Which::BestPruned => Self::BestPruned,
            Which::BestDense => Self::BestDense,
            Which::Last => Self::Last,
        }
    }
}
