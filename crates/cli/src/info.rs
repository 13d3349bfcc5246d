//! `aptvit info`

mod folder;
mod sizing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use apt_inference::Preprocessing;
use apt_pruning_agent::{AptSettings, Policy, PolicySettings};
use apt_vit_model::{
    Checkpoint, CheckpointHead, Distillation, LayerTrace, Placement, Precision, VitConfig,
    VitPreset, printable, vit_flops,
};
use burn::tensor::Device;
use clap::Parser;
use serde_json::json;

use crate::End;
use crate::device::Backend;
use crate::global::Global;
use crate::policies;
use crate::table::{count, percent, table};
use crate::values::keep_rates;
use sizing::sizing;

const EXAMPLES: &str = "\
Examples:
  aptvit info
  aptvit info --model vit-b16 --keep 0.7,0.7,0.7
  aptvit info model.safetensors
  aptvit info model.safetensors --keep 0.5 --layers 3,6
  aptvit info --run runs/mine
  aptvit info --policies";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Info {
    /// A weights file, or a folder as Hugging Face lays one out: what it is, and whether it fits
    #[arg(value_name = "FILE", conflicts_with_all = ["model", "run"], group = "sizes")]
    pub file: Option<PathBuf>,
    /// A model preset, as in vit-b16
    #[arg(long, value_name = "PRESET", conflicts_with = "run", group = "sizes")]
    pub model: Option<String>,
    /// What agents that keep so much leave of a FILE's or a preset's compute: layer keep rates, each the share of the patches
    /// that an agent sees that stay, as in 0.7,0.7,0.7; one rate is for all
    #[arg(
        long,
        value_name = "RATES",
        requires = "sizes",
        conflicts_with_all = ["run", "policies"],
        value_delimiter = ','
    )]
    pub keep: Vec<f64>,
    /// Blocks (0-based) after which an agent acts [default: 2,5,8, or what is as far through a model of fewer blocks]
    #[arg(long, value_name = "BLOCKS", requires = "keep", value_delimiter = ',')]
    pub layers: Vec<usize>,
    /// A folder: a run, or what was exported or pruned
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// List the policies, their settings and the algorithms by which they learn
    #[arg(long, conflicts_with_all = ["file", "model", "run"])]
    pub policies: bool,
}

pub fn run(args: &Info, global: &Global) -> Result<End> {
    if args.policies {
        policies::list(global);
        return Ok(End::Done);
    }
    if let Some(path) = &args.file {
        return weights(path, args, global);
    }
    match (&args.model, &args.run) {
        (Some(name), _) => model(name, args, global),
        (None, Some(folder)) => folder::describe(folder, global),
        (None, None) => {
            backends(global);
            Ok(End::Done)
        }
    }
}

fn backends(global: &Global) {
    let built_in: Vec<&str> = Backend::built_in().map(Backend::name).collect();
    let present: Vec<String> = Backend::built_in()
        .flat_map(Backend::present)
        .map(|device| device.to_string())
        .collect();
    let presets = VitPreset::ALL.map(VitPreset::name);
    if global.json {
        println!(
            "{}",
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "backends": built_in,
                "devices": present,
                "threads": rayon::current_num_threads(),
                "products": products().into_iter().collect::<BTreeMap<_, _>>(),
                "presets": presets,
            })
        );
        return;
    }
    println!("aptvit {}", env!("CARGO_PKG_VERSION"));
    println!("backends built in: {}", built_in.join(", "));
    println!("devices: {}", present.join(", "));
    println!("threads: {}", rayon::current_num_threads());
    let products = products().map(|(precision, by)| format!("{precision} by {by}"));
    println!("products on this CPU: {}", products.join(", "));
    println!("model presets: {}", presets.join(", "));
}

/// What each precision's products are computed with on the CPU.
fn products() -> [(&'static str, &'static str); 3] {
    [Precision::F32, Precision::Bf16, Precision::Int8].map(|precision| {
        let none = match precision {
            Precision::Int8 => "nothing",
            _ => "32-bit floats",
        };
        (precision.name(), precision.instructions().unwrap_or(none))
    })
}

fn model(name: &str, args: &Info, global: &Global) -> Result<End> {
    let config = VitPreset::from_name(name)?.config();
    let pruned = Pruned::new(&config, args)?;
    let dense = vit_flops(&config, &[], 0);
    if global.json {
        println!(
            "{}",
            json!({
                "model": name,
                "config": config,
                "parameters": config.num_parameters(),
                "dense_flops": dense,
                "tokens_per_layer": pruned.tokens,
                "flops": pruned.flops,
                "flops_share": pruned.share,
            })
        );
        return Ok(End::Done);
    }
    let mut rows = table(&[name, ""]);
    rows.add_row([
        "parameters (10 classes), without agents",
        &count(config.num_parameters() as f64),
    ]);
    rows.add_row(["tokens", &config.num_tokens().to_string()]);
    rows.add_row([
        "width, blocks, heads, MLP",
        &format!(
            "{}, {}, {}, {}",
            config.hidden_size, config.num_layers, config.num_heads, config.mlp_dim
        ),
    ]);
    rows.add_row(["FLOPs, dense", &count(dense as f64)]);
    for [name, value] in pruned.rows(args) {
        rows.add_row([name, value]);
    }
    println!("{rows}");
    Ok(End::Done)
}

/// What agents with the rates of `--keep` leave of a model; all of it without such.
struct Pruned {
    /// The blocks after which an agent acts.
    layers: Vec<usize>,
    /// Tokens that are left after each of them.
    tokens: Vec<usize>,
    /// The agents included.
    flops: u64,
    /// Of the dense model's.
    share: f64,
}

impl Pruned {
    fn new(config: &VitConfig, args: &Info) -> Result<Self> {
        let settings = AptSettings {
            layers: (!args.layers.is_empty()).then(|| args.layers.clone()),
            ..Default::default()
        };
        let agents = settings
            .init(config, &Device::default())
            .context("--layers")?;
        let layers = agents.blocks().to_vec();
        let rates = match args.keep.as_slice() {
            [] => Vec::new(),
            keep => keep_rates(keep, layers.len())?,
        };
        let prefix = config.num_prefix_tokens();
        let mut patches = config.num_patches();
        let mut trace = Vec::new();
        let mut of_agents = 0;
        for (rate, &layer) in rates.into_iter().zip(&layers) {
            let seen = prefix + patches;
            patches = rate.of(patches);
            of_agents += agents.flops(config, seen, prefix + patches);
            trace.push(LayerTrace {
                layer,
                placement: Placement::AfterBlock,
                seen: vec![seen],
                left: vec![prefix + patches],
                kept: Default::default(),
                logits: None,
                parked: Vec::new(),
                restarted: Vec::new(),
            });
        }
        let flops = vit_flops(config, &trace, 0) + of_agents;
        Ok(Self {
            layers,
            tokens: trace.iter().map(|entry| entry.left[0]).collect(),
            flops,
            share: flops as f64 / vit_flops(config, &[], 0) as f64,
        })
    }

    /// A table's rows of it; none where no rates were given.
    fn rows(&self, args: &Info) -> Vec<[String; 2]> {
        if args.keep.is_empty() {
            return Vec::new();
        }
        let after: Vec<String> = self.layers.iter().map(usize::to_string).collect();
        let row = |name: &str, value: String| [name.to_string(), value];
        let label = format!("tokens after blocks {}", after.join(", "));
        vec![
            row(&label, format!("{:?}", self.tokens)),
            row("FLOPs, pruned, agents included", count(self.flops as f64)),
            row("share", percent(self.share)),
        ]
    }
}

/// What a weights file is, and what of it a training would use.
fn weights(path: &Path, args: &Info, global: &Global) -> Result<End> {
    let mut checkpoint = Checkpoint::open(path)?;
    let info = checkpoint.info();
    // Nothing shows it as surely as what a training does.
    let head = match info.classes {
        Some(_) => CheckpointHead::Load,
        None => CheckpointHead::Fresh,
    };
    let vit = info.config.init(&Device::default())?;
    let refused = checkpoint.load(vit, &info.config, head, None).err();
    let refused = refused.map(|error| error.to_string());
    let pictures = Preprocessing::beside(path, info.naming)?;
    let pruned = (!args.keep.is_empty()).then(|| Pruned::new(&info.config, args));
    let pruned = pruned.transpose()?;
    if global.json {
        let mut json = json!(info);
        if let Some(pruned) = &pruned {
            json["dense_flops"] = json!(vit_flops(&info.config, &[], 0));
            json["tokens_per_layer"] = json!(pruned.tokens);
            json["flops"] = json!(pruned.flops);
            json["flops_share"] = json!(pruned.share);
        }
        json["normalization"] = json!(pictures.normalization);
        json["transform"] = json!(pictures.transform);
        json["fits"] = json!(refused.is_none());
        json["refused"] = json!(refused);
        println!("{json}");
        return Ok(End::Done);
    }
    let config = &info.config;
    let title = printable(&info.path);
    let mut rows = table(&[&title, ""]);
    let mut row = |name: &str, value: String| {
        rows.add_row([name, &value]);
    };
    row(
        "format",
        json!(info.format).as_str().unwrap_or_default().to_string(),
    );
    row("names of", info.naming.to_string());
    row(
        "width, blocks, heads, MLP",
        format!(
            "{}, {}, {}{}, {}",
            config.hidden_size,
            config.num_layers,
            config.num_heads,
            if info.heads_are_guessed {
                " (a guess)"
            } else {
                ""
            },
            config.mlp_dim
        ),
    );
    row(
        "image, patch",
        format!("{}, {}", config.image_size, config.patch_size),
    );
    if let Some(distillation) = config.distillation {
        let text = match distillation {
            Distillation::Token => "yes, without a head of its own",
            Distillation::TokenAndHead => "yes, with a head of its own",
        };
        row("distillation token", text.to_string());
    }
    if let Some(stem) = &config.stem {
        let stages = stem.stages.iter();
        let stages: Vec<String> = stages
            .map(|[units, channels]| format!("{units} units of {channels}"))
            .collect();
        row("convolutions first", stages.join(", "));
    }
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" }.to_string();
    row("LayerScale", yes_or_no(config.layer_scale.is_some()));
    row(
        "epsilon of the norms",
        format!("{:e}", config.layer_norm_eps),
    );
    row(
        "classes",
        info.classes
            .map_or("no head".into(), |classes| classes.to_string()),
    );
    row(
        "pictures",
        sizing(pictures.normalization, pictures.transform),
    );
    row("FLOPs, dense", count(vit_flops(config, &[], 0) as f64));
    for [name, value] in pruned.iter().flat_map(|pruned| pruned.rows(args)) {
        row(&name, value);
    }
    if !info.left_out.is_empty() {
        row("left out", info.left_out.join(", "));
    }
    row("fits", yes_or_no(refused.is_none()));
    println!("{rows}");
    if let Some(reason) = refused {
        println!("{reason}");
    }
    Ok(End::Done)
}
