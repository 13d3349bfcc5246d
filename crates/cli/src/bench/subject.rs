//! The model that is timed, and what is removed from it.

use std::path::Path;

use anyhow::{Context, Error, Result, bail};
use apt_data::{CifarLabels, DataSource, Progress, RgbImage};
use apt_inference::{Choice, InferenceError, Model, OpenOptions, PruningVit};
use apt_pruning_agent::{
    AptSettings, KeepRate, LAYERS, PolicyConfig, PolicySettings, Removal, Selection, TomeSettings,
};
use apt_rl_trainer::sweep::DENSE;
use apt_rl_trainer::{
    ExperimentConfig, ModelConfig, RunFolder, TrainConfig, Trainee, TrainerError,
};
use apt_vit_model::{LayerTrace, Precision, VitPreset};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

use super::args::{Bench, Benched};
use super::clock::{PerImage, Times};
use super::policies::Policy;
use crate::device;
use crate::fit;
use crate::global::Global;
use crate::values::keep_rates;

/// The layer keep rate of agents where nobody says.
const USUAL_RATE: f64 = 0.7;

/// Images of a batch where nobody says.
pub const USUAL_BATCH: usize = 8;

/// What is timed.
pub struct Subject {
    pub name: String,
    pub model: PruningVit,
    /// What a training of it says.
    pub config: ExperimentConfig,
    /// Its policy's name; none where plain agents rank the patches of a preset.
    pub policy: Option<String>,
    pub removed: Removed,
    /// The user's images, `[images, 3, height, width]`; none where random ones are timed.
    given: Option<Tensor<4>>,
}

/// How much the pruned passes remove.
#[derive(Clone, Debug)]
pub enum Removed {
    Nothing,
    /// Agents keep this share of what was left, block by block.
    Rates(Vec<KeepRate>),
    /// The policy computes these shares of the dense FLOPs, each in passes of its own.
    ToCompute(Vec<f64>),
    /// What an opened model's policy removes to compute these shares, each in passes of its own.
    Selected(Vec<(f64, Selection)>),
}

impl Subject {
    pub fn new(args: &Bench, global: &Global, device: &Device) -> Result<Self> {
        match (args.weights(), &args.run) {
            (Some(path), _) => opened(path, args, global, device),
            (None, Some(folder)) => Self::of_run(folder, args, global, device),
            (None, None) => Self::of_preset(args, global, device),
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
                dtype: of_training(global.dtype).unwrap_or_default(),
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
        let mut model = model.pruning();
        if let Some(dtype) = global.dtype {
            model = model.with_precision(dtype)?;
        }
        Self::removing(args.model.clone(), model, config, policy, args)
    }

    /// A run's model with its own policy, or with another one whose agents are fresh.
    fn of_run(folder: &Path, args: &Bench, global: &Global, device: &Device) -> Result<Self> {
        let run = RunFolder::open(folder)?;
        let checkpoint = run.checkpoints().choose(Choice::BestPruned)?;
        let mut model = run.load_model(&checkpoint, device)?;
        let mut config = run.config.clone();
        if let Some(dtype) = global.dtype {
            config.train.dtype = of_training(Some(dtype)).unwrap_or(config.train.dtype);
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
            given: None,
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

    /// The first of the user's images, or random ones.
    pub fn images(&self, batch: usize, device: &Device) -> Tensor<4> {
        if let Some(given) = &self.given {
            return given.clone().narrow(0, 0, batch);
        }
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

/// What a training's config can say of it: nothing trains in integers.
fn of_training(dtype: Option<Precision>) -> Option<Precision> {
    dtype.filter(|&dtype| dtype != Precision::Int8)
}

/// Published weights or an exported folder, with its policy or another one.
fn opened(path: &Path, args: &Bench, global: &Global, device: &Device) -> Result<Subject> {
    if args.what != Benched::Inference {
        bail!("--model {}: a preset or a run is trained", path.display());
    }
    if !args.layers.is_empty() || !args.keep.is_empty() || args.image_size.is_some() {
        bail!("--layers, --keep and --image-size are for presets");
    }
    let options = OpenOptions {
        precision: global.dtype,
        ..Default::default()
    };
    let mut model = Model::open_with(path, options, device)?;
    let mut config = ExperimentConfig::default();
    let own = PolicyConfig::named(DENSE)? != model.description().policy;
    let named = match &args.policy {
        // Weights alone say nothing of who prunes them.
        None if !own && !args.flops.is_empty() => Some(TomeSettings::NAME),
        given => given.as_deref(),
    };
    let shares = match named {
        Some(name) => {
            let policy = Policy::named(name, &args.flops, &mut config)?;
            model = model.with_policy(config.policy.policy.clone())?;
            policy.shares
        }
        None if args.flops.is_empty() => model.description().flops.clone(),
        None => args.flops.clone(),
    };
    let fitted_on = args.fit_on.as_deref().map(fit::images).transpose()?;
    let mut selected = Vec::with_capacity(shares.len());
    for share in shares {
        if let Some(images) = &fitted_on {
            fit::fit(&mut model, images, share)?;
        }
        selected.push((share, model.selection_for(Some(share))?));
    }
    let given = args
        .data
        .as_deref()
        .map(|data| pictures(data, &model, args));
    if given.is_none() && model.pruning().leaves_ragged() {
        eprintln!(
            "random images are timed, which {} does not give what yours would get: --data times yours",
            model.description().policy.name()
        );
    }
    Ok(Subject {
        name: path.display().to_string(),
        policy: Some(model.description().policy.name().to_string()),
        removed: if selected.is_empty() {
            Removed::Nothing
        } else {
            Removed::Selected(selected)
        },
        given: given.transpose()?,
        model: model.pruning().clone(),
        config,
    })
}

/// As many of the user's images as the largest batch has; where there are fewer, again from the first.
fn pictures(data: &Path, model: &Model, args: &Bench) -> Result<Tensor<4>> {
    let (images, _) = DataSource::load_to_measure(data, CifarLabels::Fine, Progress::Bar)?;
    let most = args.batches(USUAL_BATCH).into_iter().max();
    let places = (0..images.len()).cycle().take(most.unwrap_or(USUAL_BATCH));
    let read = places.map(|place| images.image(place));
    let read: Vec<RgbImage> = read.collect::<Result<_, _>>()?;
    Ok(model.preprocess(&read))
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
