//! What `aptvit bench` takes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use apt_inference::Run;
use apt_vit_model::{ImageSize, VitPreset};
use clap::{Parser, ValueEnum};

use super::clock::Effort;
use crate::values::{at_least_one, batch_size, count, duration, share};

const EXAMPLES: &str = "\
Examples:
  aptvit bench
  aptvit bench --model vit-b16 --batch 1,8 --keep 0.7,0.7,0.7 --ragged --json
  aptvit bench --model vit-b16 --policy tome --flops 0.7,0.5 --batch 64
  aptvit bench --run runs/mine --flops 0.5 --batch 1,64
  aptvit bench --model deit.safetensors --policy tome --flops 0.7,0.5 --batch 32
  aptvit bench --model deit.safetensors --policy tome-threshold --flops 0.5 --fit-on train/ --data val/ --batch 8,32
  aptvit bench --device cuda --dtype bf16 --batch 64 --policy pairs --in-flight 8 --seconds 5
  aptvit bench train --model vit-b16 --batch 4
  aptvit bench train --model vit-b16 --batch 64 --policy pairs --flops 0.5 --whole
  aptvit bench data --data pets/ --image-size 224 --threads 16

Dense and pruned passes take turns, so that slow changes of the machine's speed meet both. Other
programs that compute meanwhile still disturb their ratio.
A policy leaves as many patches in each image as compute the share of the FLOPs that was asked for; the
agents of a preset keep as many as --keep says. A run's own agents are timed by such counts, too.
`bench data` loads on as many threads as --threads says.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    /// What to time
    #[arg(value_enum, default_value_t)]
    pub what: Benched,
    /// A model preset, with random weights; or published weights or an exported folder, timed in inference
    #[arg(
        long,
        value_name = "PRESET|PATH",
        default_value = "vit-s16",
        conflicts_with = "run"
    )]
    pub model: String,
    /// The model of a run's folder, its own policy removing tokens
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Who removes tokens: `aptvit info --policies` lists them [default: the run's own; of a preset, agents
    /// that keep as many patches as --keep says]
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Shares of the dense model's FLOPs that the policy computes, its own included [default: the run's; 0.5 with
    /// --policy]
    #[arg(long, value_name = "SHARE,..", value_delimiter = ',', value_parser = share)]
    pub flops: Vec<f64>,
    /// Images of a batch [default: 8; of `bench data`, 64]
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = batch_size)]
    pub batch: Vec<usize>,
    /// Layer keep rate of each agent: the share of the patches it sees that stay; one rate is for all [default: 0.7]
    #[arg(
        long,
        value_name = "RATES",
        value_delimiter = ',',
        conflicts_with_all = ["policy", "flops"]
    )]
    pub keep: Vec<f64>,
    /// Blocks (0-based) after which an agent acts [default: the run's; of a preset 2,5,8, or what is as far through a
    /// model of fewer blocks; of pairs, all but the last]
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
    #[arg(long, value_name = "N", default_value = "1", value_parser = batch_size)]
    pub in_flight: usize,
    /// Of a training step, only the whole, without its parts
    #[arg(long)]
    pub whole: bool,
    /// Images on which the budgets of a policy are fitted first, as in `aptvit eval`
    #[arg(long, value_name = "PATH", requires = "flops")]
    pub fit_on: Option<PathBuf>,
    /// Of `bench data`: a file or folder of images [default: generated shapes]. Of weights and exported folders: images
    /// that are timed instead of random ones, for policies that leave different numbers of tokens in them
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Rounds before the clock counts
    #[arg(long, value_name = "N", default_value = "2", value_parser = count)]
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

impl Bench {
    /// Weights or an exported folder, where the model is neither a preset nor a run.
    pub fn weights(&self) -> Option<&Path> {
        if let Some(path) = &self.run {
            return (path.exists() && !Run::is_in(path)).then_some(path);
        }
        let path = Path::new(&self.model);
        let is_preset = VitPreset::from_name(&self.model).is_ok();
        (!is_preset && path.exists()).then_some(path)
    }

    /// Does it compute gradients?
    pub fn trains(&self) -> bool {
        self.what == Benched::Train
    }

    /// Images of a batch.
    pub fn batches(&self, default: usize) -> Vec<usize> {
        if self.batch.is_empty() {
            vec![default]
        } else {
            self.batch.clone()
        }
    }

    pub fn effort(&self) -> Effort {
        Effort {
            warmup: self.warmup,
            repeats: self.repeats,
            time: self.seconds.unwrap_or_default(),
        }
    }
}
