//! The model that is timed, and what is removed from it.

use anyhow::{Error, Result, bail};
use apt_pruning_agent::{KeepRate, Merging, PolicyKind, PruningAgentsConfig};
use apt_rl_trainer::sweep::DENSE;
use apt_rl_trainer::{
    Choice, ExperimentConfig, ModelConfig, PruningVit, TrainConfig, TrainerError,
};
use apt_vit_model::{LayerTrace, VitPreset};
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

use super::clock::{PerImage, Times};
use super::policies::{Policy, usual_layers};
use crate::args::{Bench, Global, keep_rates};
use crate::{device, open_run};

/// The layer keep rate of agents where nobody says.
const USUAL_RATE: f64 = 0.7;

/// What is timed.
pub struct Subject {
    pub name: String,
    pub model: PruningVit,
    /// What a training of it says.
    pub config: ExperimentConfig,
    /// What a sweep calls its policy; none where plain agents rank the patches of a preset.
    pub policy: Option<String>,
    pub removed: Removed,
}

/// How much the pruned passes remove.
#[derive(Clone, Debug)]
pub enum Removed {
    Nothing,
    /// Agents keep this share of what was left, layer by layer.
    Rates(Vec<KeepRate>),
    /// The policy computes these shares of the dense FLOPs, each in passes of its own.
    ToCompute(Vec<f64>),
}

impl Subject {
    pub fn new(args: &Bench, global: &Global, device: &Device) -> Result<Self> {
        match &args.run {
            Some(folder) => Self::of_run(folder, args, global, device),
            None => Self::of_preset(args, global, device),
        }
    }

    /// A preset with random weights.
    fn of_preset(args: &Bench, global: &Global, device: &Device) -> Result<Self> {
        if args.policy.is_none() && !args.flops.is_empty() {
            bail!("--flops: say whose, as in --policy tome");
        }
        let preset = VitPreset::from_name(&args.model)?.config();
        let mut layers = args.layers.clone();
        if layers.is_empty() {
            layers = usual_layers(preset.num_layers);
        }
        let mut config = ExperimentConfig {
            seed: args.seed,
            model: ModelConfig {
                preset: args.model.clone(),
                image_size: args.image_size,
                ..Default::default()
            },
            agents: PruningAgentsConfig {
                layers,
                ..Default::default()
            },
            train: TrainConfig {
                dtype: global.dtype.unwrap_or_default(),
                ..Default::default()
            },
            ..Default::default()
        };
        let policy = match &args.policy {
            Some(name) => Some(Policy::named(
                name,
                &args.flops,
                &mut config,
                preset.num_layers,
            )?),
            None => None,
        };
        if !args.layers.is_empty() {
            config.agents.layers.clone_from(&args.layers);
        }
        let model = PruningVit::new(&config, preset.num_classes, device).map_err(in_layers)?;
        Self::removing(args.model.clone(), model, config, policy, args)
    }

    /// A run's model with its own policy, or with another's fresh agents.
    fn of_run(
        folder: &std::path::Path,
        args: &Bench,
        global: &Global,
        device: &Device,
    ) -> Result<Self> {
        let run = open_run(folder, global)?;
        let mut model = run.load_model(&run.checkpoint(Choice::BestPruned)?, device)?;
        let mut config = run.config.clone();
        let policy = match &args.policy {
            Some(name) => {
                let blocks = model.config().num_layers;
                let policy = Policy::named(name, &args.flops, &mut config, blocks)?;
                model = with_agents_of(&config, &model, device)?;
                policy
            }
            None => Policy::of_run(&config, &args.flops)?,
        };
        Self::removing(
            folder.display().to_string(),
            model,
            config,
            Some(policy),
            args,
        )
    }

    fn removing(
        name: String,
        model: PruningVit,
        config: ExperimentConfig,
        policy: Option<Policy>,
        args: &Bench,
    ) -> Result<Self> {
        let removed = match &policy {
            Some(policy) if policy.name == DENSE => Removed::Nothing,
            Some(policy) if args.keep.is_empty() && !policy.shares.is_empty() => {
                Removed::ToCompute(policy.shares.clone())
            }
            _ if !keeps_by_rates(&config) => bail!(
                "--keep: agents alone keep by rates, and only where what they remove is lost; say what to \
                 compute instead, as in --flops 0.5"
            ),
            _ => Removed::Rates(rates(args, model.agents.layers.len())?),
        };
        Ok(Self {
            name,
            model,
            config,
            policy: policy.map(|policy| policy.name),
            removed,
        })
    }

    /// The same model with the published method's agents.
    pub fn published(&self, device: &Device) -> Result<PruningVit> {
        if keeps_by_rates(&self.config) && self.config.agents.network == Default::default() {
            return Ok(self.model.clone());
        }
        let mut config = self.config.clone();
        if config.policy.merge == Merging::Matched {
            config.agents.layers = usual_layers(self.model.config().num_layers);
        }
        config.agents.network = Default::default();
        config.policy = Default::default();
        config.algorithm = Default::default();
        with_agents_of(&config, &self.model, device)
    }

    /// Random images for it.
    pub fn images(&self, batch: usize, device: &Device) -> Tensor<4> {
        let size = self.model.config().image_size;
        let normal = Distribution::Normal(0.0, 1.0);
        Tensor::random([batch, 3, size.height, size.width], normal, device)
    }

    /// FLOPs of an image, the policy's included, on average over a batch.
    pub fn flops(&self, trace: &[LayerTrace], batch: usize) -> f64 {
        let flops = (0..batch).map(|image| self.model.flops(trace, image).0);
        flops.sum::<u64>() as f64 / batch as f64
    }

    pub fn timed(&self, batch: usize, times: &Times) -> Timed {
        Timed {
            model: self.name.clone(),
            backend: device::chosen().map_or(String::new(), |chosen| chosen.main.to_string()),
            dtype: self.model.precision().name(),
            batch,
            threads: rayon::current_num_threads(),
            rounds: times.seconds.len(),
            images_per_s: batch as f64 / times.median(),
            ms_per_image: times.per_image(batch),
            peak_rss_mb: times.peak_rss_mb,
        }
    }
}

/// The rates that were asked for, one for each of so many agents.
pub fn rates(args: &Bench, agents: usize) -> Result<Vec<KeepRate>> {
    if args.keep.is_empty() {
        keep_rates(&[USUAL_RATE], agents)
    } else {
        keep_rates(&args.keep, agents)
    }
}

/// Do agents decide, and is what they remove lost?
fn keeps_by_rates(config: &ExperimentConfig) -> bool {
    config.policy.kind == PolicyKind::Agents && config.policy.merge == Merging::Lost
}

/// The weights of `model` with the agents and the policy that `config` says, whose weights are fresh.
fn with_agents_of(
    config: &ExperimentConfig,
    model: &PruningVit,
    device: &Device,
) -> Result<PruningVit> {
    let mut config = config.clone();
    config.model.pretrained = None;
    let mut fresh =
        PruningVit::new(&config, model.config().num_classes, device).map_err(in_layers)?;
    fresh.vit = model.vit.clone();
    Ok(fresh)
}

/// An error of agents is one of the layers that were asked for.
fn in_layers(error: TrainerError) -> Error {
    match error {
        TrainerError::Agent(_) => Error::new(error).context("--layers"),
        error => error.into(),
    }
}

/// What every line of a result has.
#[derive(Debug, Serialize)]
pub struct Timed {
    model: String,
    backend: String,
    dtype: &'static str,
    pub batch: usize,
    threads: usize,
    /// Rounds that counted.
    rounds: usize,
    pub images_per_s: f64,
    pub ms_per_image: PerImage,
    /// In MiB.
    peak_rss_mb: Option<f64>,
}

impl Timed {
    /// What all lines of a table have in common.
    pub fn title(&self) -> String {
        format!(
            "{}, {}, {}, {} threads",
            self.model, self.backend, self.dtype, self.threads
        )
    }

    pub fn peak(&self) -> String {
        let peak = self.peak_rss_mb.map(|peak| format!("{peak:.0}"));
        peak.unwrap_or("-".into())
    }
}
