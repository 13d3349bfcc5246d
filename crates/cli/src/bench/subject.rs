//! The model that is timed, and what is removed from it.

use std::path::Path;

use anyhow::{Context, Error, Result, bail};
use apt_inference::{Choice, InferenceError, PruningVit};
use apt_pruning_agent::{AptSettings, KeepRate, LAYERS, PolicyConfig, PolicySettings, Removal};
use apt_rl_trainer::{
    ExperimentConfig, ModelConfig, RunFolder, TrainConfig, Trainee, TrainerError,
};
use apt_vit_model::{LayerTrace, VitPreset};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

use super::args::Bench;
use super::clock::{PerImage, Times};
use super::policies::Policy;
use crate::device;
use crate::global::Global;
use crate::values::keep_rates;

/// The layer keep rate of agents where nobody says.
const USUAL_RATE: f64 = 0.7;

/// What is timed.
pub struct Subject {
    pub name: String,
    pub model: PruningVit,
    /// What a training of it says.
    pub config: ExperimentConfig,
    /// Its policy's name; none where plain agents rank the patches of a preset.
    pub policy: Option<String>,
    pub removed: Removed,
}

/// How much the pruned passes remove.
#[derive(Clone, Debug)]
pub enum Removed {
    Nothing,
    /// Agents keep this share of what was left, block by block.
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
        let mut config = ExperimentConfig {
            seed: args.seed,
            model: ModelConfig {
                preset: args.model.clone(),
                image_size: args.image_size,
                ..Default::default()
            },
            train: TrainConfig {
                dtype: global.dtype.unwrap_or_default(),
                ..Default::default()
            },
            ..Default::default()
        };
        let policy = args.policy.as_ref();
        let policy = policy.map(|name| Policy::named(name, &args.flops, &mut config));
        let policy = policy.transpose()?;
        if !args.layers.is_empty() {
            config = acting_after(&args.layers, &config)?;
        }
        let model = Trainee::new(&config, preset.num_classes, device).map_err(in_layers)?;
        Self::removing(args.model.clone(), model.pruning(), config, policy, args)
    }

    /// A run's model with its own policy, or with another one whose agents are fresh.
    fn of_run(folder: &Path, args: &Bench, global: &Global, device: &Device) -> Result<Self> {
        let run = RunFolder::open(folder)?;
        let checkpoint = run.checkpoints().choose(Choice::BestPruned)?;
        let mut model = run.load_model(&checkpoint, device)?;
        let mut config = run.config.clone();
        if let Some(dtype) = global.dtype {
            config.train.dtype = dtype;
            model = model.with_precision(dtype)?;
        }
        let policy = match &args.policy {
            Some(name) => {
                let policy = Policy::named(name, &args.flops, &mut config)?;
                model = model.with_policy(&config.policy.policy)?;
                policy
            }
            None => Policy::of_run(&mut config, &args.flops),
        };
        let name = folder.display().to_string();
        Self::removing(name, model, config, Some(policy), args)
    }

    fn removing(
        name: String,
        model: PruningVit,
        config: ExperimentConfig,
        policy: Option<Policy>,
        args: &Bench,
    ) -> Result<Self> {
        let removed = match &policy {
            Some(_) if model.policy.blocks().is_empty() => Removed::Nothing,
            Some(policy) if args.keep.is_empty() && !policy.shares.is_empty() => {
                Removed::ToCompute(policy.shares.clone())
            }
            _ if !keeps_by_rates(&model) => bail!(
                "--keep: agents alone keep by rates, and only where what they remove is dropped; say what to \
                 compute instead, as in --flops 0.5"
            ),
            _ => Removed::Rates(rates(args, model.policy.blocks().len())?),
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
    pub fn published(&self) -> Result<PruningVit> {
        let published = AptSettings::NAME;
        if self.config.policy.policy.name() == published {
            return Ok(self.model.clone());
        }
        let policy = PolicyConfig::named(published)?;
        Ok(self.model.clone().with_policy(&policy)?)
    }

    /// The same model for a training of it.
    pub fn trainee(&self, config: &ExperimentConfig, device: &Device) -> Result<Trainee> {
        let mut config = config.clone();
        config.model.pretrained = None;
        let trainee = Trainee::new(&config, self.model.config().num_classes, device)?;
        let trainee = trainee.with_pruning(self.model.clone()).train();
        Ok(trainee.with_frozen(config.train.freeze)?)
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

/// Do agents decide, and is what they remove dropped?
fn keeps_by_rates(model: &PruningVit) -> bool {
    let agents = model.policy.agents();
    agents.is_some_and(|agents| agents.removal() == Removal::Dropped)
}

/// The config with a policy that acts after these blocks.
fn acting_after(layers: &[usize], config: &ExperimentConfig) -> Result<ExperimentConfig> {
    let text = config.to_toml()?;
    let layers = [format!("policy.{}={layers:?}", LAYERS.key)];
    ExperimentConfig::parse(&text, "bench", &layers).context("--layers")
}

/// An error of the policy is one of the layers that were asked for.
fn in_layers(error: TrainerError) -> Error {
    let is_of_layers = match &error {
        TrainerError::Agent(_) | TrainerError::Inference(InferenceError::Agent(_)) => true,
        TrainerError::Field { field, .. } => *field == format!("policy.{}", LAYERS.key),
        _ => false,
    };
    let error = Error::new(error);
    if is_of_layers {
        error.context("--layers")
    } else {
        error
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
