//! The command line.

mod values;

use std::path::PathBuf;
use std::time::Duration;

use apt_rl_trainer::Choice;
use apt_vit_model::{ExecutionMode, ExportNaming, ImageSize, Precision};
use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use self::values::{at_least_one, duration, precision, probability, share, threads};
use crate::device::DeviceChoice;

pub use self::values::keep_rates;

/// Trains Vision Transformers together with agents that prune their tokens, and runs them.
#[derive(Debug, Parser)]
#[command(name = "aptvit", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  aptvit train                                         the quick start: generated images
  aptvit train --config configs/cifar10-small.toml     CIFAR-10, downloaded
  aptvit train --resume runs/cifar10-small             go on after an interruption
  aptvit eval --run runs/cifar10-small --mode drop     accuracy and throughput, pruned
  aptvit infer --run runs/cifar10-small cat.jpg        what is in a picture
  aptvit export --run runs/cifar10-small --out out     the model for timm to load";

/// Options of every command.
#[derive(Debug, Parser)]
pub struct Global {
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads that compute [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Where to compute: auto, flex, wgpu, tch, tch:cuda or cuda, with :1 behind it for the second
    /// GPU; `aptvit info` lists what is there. `train` takes several, with commas, and
    /// remote:HOST:PORT for what `aptvit serve` serves there
    #[arg(
        long,
        global = true,
        value_name = "DEVICE",
        default_value = "auto",
        hide_default_value = true
    )]
    pub device: DeviceChoice,
    /// In which floats to compute: f32, bf16 or f16; sums, norms, softmax and loss stay in f32
    /// [default: the config's or the run's, else f32]
    #[arg(long, global = true, value_name = "TYPE", value_parser = precision)]
    pub dtype: Option<Precision>,
    /// What to log to stderr: error, warn, info, debug, or a tracing filter
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    pub log: String,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model and its agents, or go on with a training
    #[command(after_help = TRAIN_EXAMPLES)]
    Train(Train),
    /// Measure a trained model on the test images
    #[command(after_help = EVAL_EXAMPLES)]
    Eval(Eval),
    /// Classify pictures, and show what the agents removed
    #[command(after_help = INFER_EXAMPLES)]
    Infer(Infer),
    /// Find the thresholds at which a trained model meets a compute budget
    #[command(after_help = CALIBRATE_EXAMPLES)]
    Calibrate(Calibrate),
    /// Compare policies at several budgets, each trained from one start
    #[command(after_help = SWEEP_EXAMPLES)]
    Sweep(Sweep),
    /// Time a model, dense and pruned, its training step, or the loading of images
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Bench),
    /// Write a trained model for timm or Hugging Face to load, its agents beside it
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
    /// Lend this machine's devices to trainings on other machines
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Serve),
    /// Download a data set or published weights into the cache
    #[command(after_help = FETCH_EXAMPLES)]
    Fetch(Fetch),
    /// Show backends and devices, a model's size and cost, or a run
    #[command(after_help = INFO_EXAMPLES)]
    Info(Info),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

const TRAIN_EXAMPLES: &str = "\
Examples:
  aptvit train
  aptvit train --config configs/cifar10-small.toml --data cifar10.tgz --out runs/mine
  aptvit train --config configs/quickstart.toml --set train.steps=3000 --set optimizer.learning_rate=5e-4
  aptvit train --config configs/cifar10-vit-b16.toml --dry-run
  aptvit train --resume runs/mine --time-limit 30m
  aptvit train --device cuda,cuda:1 --dtype bf16
  aptvit train --device flex,remote:10.0.0.2:3000

Ctrl-C saves a checkpoint and stops; a second Ctrl-C stops at once.
Exit code: 0 done, 1 error, 2 wrong usage, 130 interrupted.";

const EVAL_EXAMPLES: &str = "\
Examples:
  aptvit eval --run runs/mine
  aptvit eval --run runs/mine --mode drop --threshold 0.4 --json";

const INFER_EXAMPLES: &str = "\
Examples:
  aptvit infer --run runs/mine cat.jpg dog.png
  aptvit infer --run runs/mine photos/ --visualize pictures/ --top 3";

const CALIBRATE_EXAMPLES: &str = "\
Examples:
  aptvit calibrate --run runs/mine --target-flops 0.7,0.5
  aptvit eval --run runs/mine --target-flops 0.5
  aptvit infer --run runs/mine --target-flops 0.5 cat.jpg

Nothing is trained: thresholds are fitted on the training images that the run held out, and kept in
its budgets.json. A run whose policy counts tokens (policy.uniform, and every policy but agents) needs
none: its --target-flops works at once.";

const SWEEP_EXAMPLES: &str = "\
Examples:
  aptvit sweep --start runs/cifar10-small --out sweep --passes 64000
  aptvit sweep --start runs/mine --policies dense,tome,first-order --budgets 0.5 --seeds 1,2,3
  aptvit sweep --start runs/mine --policies 'first-order,bare:agents.network=hinted;algorithm.first_order=true'
  aptvit sweep --out sweep --report-only --reference tome

Each policy is trained with each seed from the start's best dense checkpoint, and measured on the test
images at each budget. What is done is kept: run the same command again to go on; another start or other
settings need another --out. In --out there are rows.csv and rows.json, summary.md with paired comparisons,
plots (SVG, PNG), cells/, runs/ and sweep.json.
Policies: dense, random, cls-attention, evit, tome, dynamic-vit, counterfactual, first-order,
pairs, policy-gradient, ppo; with :KEY=VALUE;.. behind a name, its config says that, too, and the name may be
longer: tome-slow:optimizer.learning_rate=1e-5 is tome with another learning rate.";

const BENCH_EXAMPLES: &str = "\
Examples:
  aptvit bench
  aptvit bench --model vit-b16 --batch 1,8 --keep 0.7,0.7,0.7 --ragged --json
  aptvit bench --model vit-b16 --policy tome --flops 0.7,0.5 --batch 64
  aptvit bench --run runs/mine --flops 0.5 --batch 1,64
  aptvit bench --device cuda --dtype bf16 --batch 64 --policy pairs --in-flight 8 --seconds 5
  aptvit bench train --model vit-b16 --batch 4
  aptvit bench train --model vit-b16 --batch 64 --policy pairs --flops 0.5 --whole
  aptvit bench data --data pets/ --image-size 224 --threads 16

Dense and pruned passes take turns, so that slow changes of the machine's speed meet both. Other
programs that compute meanwhile still disturb their ratio.
A policy leaves as many patches in each image as compute the share of the FLOPs that was asked for; the
agents of a preset keep as many as --keep says. A run's own agents are timed by such counts, too.
`bench data` loads on as many threads as --threads says.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  aptvit export --run runs/mine --out exported
  aptvit export --run runs/mine --out exported --naming hugging-face";

const SERVE_EXAMPLES: &str = "\
Examples:
  aptvit serve --device cuda --listen 10.0.0.2:3000        on the machine that lends
  aptvit train --device cuda,remote:10.0.0.2:3000          on the machine that trains

Set APTVIT_TOKEN to the same secret on both. It keeps strangers out, but nothing is encrypted: serve on
a network that you trust, or through a tunnel.";

const FETCH_EXAMPLES: &str = "\
Examples:
  aptvit fetch                  what there is, with sizes and licences
  aptvit fetch cifar10
  aptvit fetch vit-b16-in21k
  aptvit fetch https://example.org/model.safetensors

A broken transfer goes on where it stopped. Where no checksum is published, that of the first
download is recorded beside the file and holds from then on. APT_CACHE names another cache folder,
HF_ENDPOINT a mirror of Hugging Face, HTTPS_PROXY a proxy.";

const INFO_EXAMPLES: &str = "\
Examples:
  aptvit info
  aptvit info --model vit-b16 --keep 0.7,0.7,0.7
  aptvit info model.safetensors
  aptvit info --run runs/mine";

#[derive(Debug, Parser)]
pub struct Train {
    /// The experiment's TOML file [default: the quick start]
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    /// Override a config key, as in train.steps=1000; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "resume")]
    pub overrides: Vec<String>,
    /// Data file or folder [default: generated or downloaded; with --resume, the run's]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// The run's folder [default: runs/ and the config's name, numbered where there is one]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Everything random derives from it [default: the config's]
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    pub seed: Option<u64>,
    /// Go on with the run in this folder
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Show parameters, FLOPs, memory, steps and a time estimate, and stop
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
    /// Save a checkpoint and stop after so long, as in 90s, 30m or 2h; without a unit, seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub time_limit: Option<Duration>,
    /// Plain lines instead of the dashboard, also on a terminal
    #[arg(long)]
    pub plain: bool,
    /// With several CUDA devices: sum gradients by Burn's collective operations
    /// on all of them, instead of on the first
    #[arg(long)]
    pub collective: bool,
}

#[derive(Debug, Parser)]
pub struct Serve {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
    pub listen: String,
}

#[derive(Debug, Parser)]
pub struct Eval {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// What happens to removed tokens [default: dense and drop, in turn]
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// A token goes where its removal is more probable than this [default: the run's]
    #[arg(long, value_name = "P", value_parser = probability)]
    pub threshold: Option<f64>,
    /// Compute this share of the dense model's FLOPs; where the policy does not count tokens, `aptvit calibrate`
    /// finds its threshold first
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "threshold")]
    pub target_flops: Option<f64>,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint: Which,
    /// Data file or folder [default: the run's]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Images of a forward pass [default: the run's]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub batch_size: Option<usize>,
    /// Measure only the first so many test images
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit: Option<usize>,
}

#[derive(Debug, Parser)]
pub struct Infer {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Pictures (PNG, JPEG), or folders of them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// A token goes where its removal is more probable than this [default: the run's]
    #[arg(long, value_name = "P", value_parser = probability)]
    pub threshold: Option<f64>,
    /// Compute this share of the dense model's FLOPs; where the policy does not count tokens, `aptvit calibrate`
    /// finds its threshold first
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "threshold")]
    pub target_flops: Option<f64>,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint: Which,
    /// Classes to show
    #[arg(long, value_name = "N", default_value = "3", value_parser = at_least_one)]
    pub top: usize,
    /// Write a picture for each image with the removed patches dimmed, layer by layer
    #[arg(long, value_name = "DIR")]
    pub visualize: Option<PathBuf>,
}

#[derive(Debug, Parser)]
pub struct Calibrate {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Shares of the dense model's FLOPs, agents included
    #[arg(long, required = true, value_name = "SHARE,..", value_delimiter = ',', value_parser = share)]
    pub target_flops: Vec<f64>,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint: Which,
    /// Data file or folder [default: the run's]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Use only the first so many held-out images
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit: Option<usize>,
}

#[derive(Debug, Parser)]
pub struct Sweep {
    /// The run that all start from; its config is theirs, except for what the policy says
    #[arg(long, value_name = "DIR", required_unless_present = "report_only")]
    pub start: Option<PathBuf>,
    /// The sweep's folder
    #[arg(long, value_name = "DIR", default_value = "sweep")]
    pub out: PathBuf,
    /// Who is compared
    #[arg(
        long,
        value_name = "NAME,..",
        default_value = "dense,pairs,tome,first-order,policy-gradient,ppo,counterfactual,evit,cls-attention,dynamic-vit,random"
    )]
    pub policies: String,
    /// Shares of the dense model's FLOPs
    #[arg(long, value_name = "SHARE,..", value_delimiter = ',', default_value = "0.7,0.5,0.35", value_parser = share)]
    pub budgets: Vec<f64>,
    /// The seeds of the trainings
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "1,2,3"
    )]
    pub seeds: Vec<u64>,
    /// Images that each training learns from
    #[arg(long, value_name = "N", default_value = "64000", value_parser = at_least_one)]
    pub passes: usize,
    /// Override a config key in all of them, as in optimizer.learning_rate=2e-4; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Data file or folder [default: the start's]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Measure on images that the start held out from training instead of the test images: to choose by. The start
    /// must have held out more than the 2,000 that budgets are met by (train.held_out)
    #[arg(long)]
    pub held_out: bool,
    /// Whom the others are compared with in summary.md [default: the first of the policies but dense]
    #[arg(long, value_name = "NAME")]
    pub reference: Option<String>,
    /// Stop after so long, to go on later, as in 90s, 30m or 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub time_limit: Option<Duration>,
    /// Only write the tables and plots of what is done
    #[arg(long)]
    pub report_only: bool,
}

#[derive(Debug, Parser)]
pub struct Bench {
    /// What to time
    #[arg(value_enum, default_value_t)]
    pub what: Benched,
    /// A model preset, with random weights
    #[arg(
        long,
        value_name = "PRESET",
        default_value = "vit-s16",
        conflicts_with = "run"
    )]
    pub model: String,
    /// The model of a run's folder, its own policy removing tokens
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Who removes tokens, by a sweep's name: tome, pairs, evit, ... [default: the run's own; of a preset, agents
    /// that keep as many patches as --keep says]
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Shares of the dense model's FLOPs that the policy computes, its own included [default: the run's; 0.5 with
    /// --policy]
    #[arg(long, value_name = "SHARE,..", value_delimiter = ',', value_parser = share)]
    pub flops: Vec<f64>,
    /// Images of a batch [default: 8; of `bench data`, 64]
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = at_least_one)]
    pub batch: Vec<usize>,
    /// Layer keep rate at each agent; one rate is for all [default: 0.7]
    #[arg(
        long,
        value_name = "RATES",
        value_delimiter = ',',
        conflicts_with_all = ["policy", "flops"]
    )]
    pub keep: Vec<f64>,
    /// Blocks (0-based) after which an agent acts [default: the run's; of a preset 2,5,8, or what is as far through a
    /// model of fewer blocks; where agents judge pairs, all but the last]
    #[arg(
        long,
        value_name = "BLOCKS",
        value_delimiter = ',',
        conflicts_with = "run"
    )]
    pub layers: Vec<usize>,
    /// Side of the images in pixels, or height and width as in 224x192 [default: the model's; of `bench data` the
    /// images' own up to 64, else 224]
    #[arg(long, value_name = "N|HxW", conflicts_with = "run")]
    pub image_size: Option<ImageSize>,
    /// Time too what keeps a different number of patches in each image, with the same mean, where the policy can
    #[arg(long)]
    pub ragged: bool,
    /// Passes that are enqueued before one wait for all of them: on a GPU, the host then prepares the next while it
    /// computes
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub in_flight: usize,
    /// Of a training step, only the whole, without its parts
    #[arg(long)]
    pub whole: bool,
    /// Of `bench data`: a file or folder of images [default: generated shapes]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Rounds before the clock counts
    #[arg(long, value_name = "N", default_value = "2")]
    pub warmup: usize,
    /// Rounds that count, at least
    #[arg(long, value_name = "N", default_value = "10", value_parser = at_least_one)]
    pub repeats: usize,
    /// Seconds for which each case is timed, at least [default: as long as the rounds take; of `bench data`, 5]
    #[arg(long, value_name = "S", value_parser = duration)]
    pub seconds: Option<Duration>,
    /// Random weights, images and changes of images derive from it
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
}

/// What can be timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Benched {
    /// Forward passes, dense and pruned
    #[default]
    Inference,
    /// The parts of the published training step, each beside the way that saves less, and whole steps
    Train,
    /// The training images' way from file to batch: decoded, cropped, resized, normalised
    Data,
}

#[derive(Debug, Parser)]
pub struct Export {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// The folder to write into
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Whose names the tensors get
    #[arg(long, value_enum, default_value_t)]
    pub naming: Names,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint: Which,
}

#[derive(Debug, Parser)]
pub struct Fetch {
    /// A name from the list, or an address of a weights file [default: print the list]
    #[arg(value_name = "NAME|URL")]
    pub what: Option<String>,
}

#[derive(Debug, Parser)]
pub struct Info {
    /// A weights file, or a folder as Hugging Face lays one out: what it is, and whether it fits
    #[arg(value_name = "FILE", conflicts_with_all = ["model", "run"])]
    pub file: Option<PathBuf>,
    /// A model preset, as in vit-b16
    #[arg(long, value_name = "PRESET", conflicts_with = "run")]
    pub model: Option<String>,
    /// Layer keep rates of agents, as in 0.7,0.7,0.7; one rate is for all
    #[arg(long, value_name = "RATES", requires = "model", value_delimiter = ',')]
    pub keep: Vec<f64>,
    /// Blocks (0-based) after which an agent acts [default: 2,5,8]
    #[arg(long, value_name = "BLOCKS", requires = "keep", value_delimiter = ',')]
    pub layers: Vec<usize>,
    /// A run's folder
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
}

/// What happens to removed tokens.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Mode {
    /// Nothing is removed
    Dense,
    /// They stay, but nothing attends to them
    Mask,
    /// They leave the tensor
    Drop,
}

impl From<Mode> for ExecutionMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Dense => Self::Dense,
            Mode::Mask => Self::Mask,
            Mode::Drop => Self::Drop,
        }
    }
}

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Which {
    /// Most accurate with agents acting, on the held-out images
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

/// Whose names an exported model gets.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Names {
    /// timm's VisionTransformer
    #[default]
    Timm,
    /// transformers' ViT, DeiT or, with LayerScale, DINOv2
    HuggingFace,
}

impl From<Names> for ExportNaming {
    fn from(names: Names) -> Self {
        match names {
            Names::Timm => Self::Timm,
            Names::HuggingFace => Self::HuggingFace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert!(duration("soon").is_err() && duration("-3m").is_err());
    }
}
