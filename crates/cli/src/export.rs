//! `aptvit export`

use std::path::PathBuf;

use anyhow::{Result, bail};
use apt_inference::{Export as Exported, Run, export_model};
use apt_vit_model::{ExportNaming, Precision};
use clap::{Parser, ValueEnum};
use serde_json::json;

use crate::global::Global;
use crate::model_args::Which;
use crate::{End, device};

const EXAMPLES: &str = "\
Examples:
  aptvit export --run runs/mine --out exported
  aptvit export --run runs/mine --out exported --naming hugging-face
  aptvit export --run runs/mine --out small --dtype int8       a quarter of the bytes, and it answers in integers
  aptvit export --run half --out half-int8 --dtype int8        what `aptvit prune` wrote, smaller
  aptvit export --run runs/mine --out slim --format run

The folder has `model.safetensors` and `config.json` for the other framework, and `aptvit.json` and
`policy.safetensors` beside them, so that `aptvit infer` and `eval` run it pruned again. With
`--format run` it is a run's folder with one checkpoint and without the optimiser: enough for eval,
infer, calibrate and export, not for `train --resume`.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Export {
    /// A run's folder; or a pruned or exported one, or published weights
    #[arg(long, value_name = "PATH")]
    pub run: PathBuf,
    /// The folder to write into, apart from the other
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What the folder is for
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Whose names the tensors get [default: timm]
    #[arg(long, value_enum)]
    pub naming: Option<Names>,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint: Which,
}

/// What an exported folder is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Other frameworks, and this program
    #[default]
    Weights,
    /// This program: the run without what only its training needs
    Run,
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

pub fn run(args: &Export, global: &Global) -> Result<End> {
    if args.format == Format::Run && args.naming.is_some() {
        bail!("--naming: a run keeps its own names; leave it out, or --format run");
    }
    if args.format == Format::Run && global.dtype.is_some() {
        bail!(
            "--dtype: a run keeps its weights as they were trained; leave it out, or --format run"
        );
    }
    let name = match args.format {
        Format::Run => slim(args)?,
        Format::Weights => weights(args, global)?,
    };
    if global.json {
        println!("{}", json!({ "folder": args.out, "checkpoint": name }));
    } else {
        let (run, out) = (args.run.display(), args.out.display());
        let what = if name.is_empty() { "the model" } else { &name };
        println!("{what} of {run} is in {out}");
    }
    Ok(End::Done)
}

/// Writes a run without what only its training needs, and names the checkpoint.
fn slim(args: &Export) -> Result<String> {
    let run = Run::open(&args.run)?;
    run.check_apart(&args.out)?;
    let checkpoint = run.checkpoints().choose(args.checkpoint.into())?;
    run.slim(&checkpoint, &args.out)?;
    Ok(checkpoint.name())
}

/// Writes weights for other frameworks, and names the checkpoint.
fn weights(args: &Export, global: &Global) -> Result<String> {
    if Run::is_in(&args.run) {
        Run::open(&args.run)?.check_apart(&args.out)?;
    }
    let (model, mut exported) = Exported::open(&args.run, args.checkpoint.into(), &device::open())?;
    // Where the data was is nobody else's business.
    exported.description.data = None;
    let own = exported.description.dtype;
    exported.description.dtype = global.dtype.unwrap_or(own);
    let naming = args.naming.unwrap_or_default();
    let stored = global.dtype.unwrap_or(Precision::F32);
    export_model(&model, &exported, naming.into(), stored, &args.out)?;
    Ok(exported.checkpoint)
}
