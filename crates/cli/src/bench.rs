//! `aptvit bench`

mod clock;
mod training;

use std::cell::RefCell;

use anyhow::{Context, Result, bail};
use apt_pruning_agent::{KeepRate, KeptCounts, PruningAgents, PruningAgentsConfig, RankedReducer};
use apt_rl_trainer::{Choice, RunFolder};
use apt_vit_model::{ExecutionMode, LayerTrace, RunSettings, Vit, VitConfig, VitPreset, vit_flops};
use burn::tensor::{Device, Distribution, Tensor};
use indicatif::ProgressBar;
use serde::Serialize;

use self::clock::{Case, PerImage};
use crate::End;
use crate::args::{Bench, Benched, Global};
use crate::eval::progress_bar;
use crate::table::{count, percent, table};

/// The published agent layers.
const LAYERS: [usize; 3] = [2, 5, 8];

/// What is timed, and on how much of its input.
struct Subject {
    name: String,
    config: VitConfig,
    vit: Vit,
    agents: PruningAgents,
    rates: Vec<KeepRate>,
}

pub fn run(args: &Bench, global: &Global) -> Result<End> {
    let device = match args.what {
        Benched::Inference => Device::default(),
        Benched::Train => Device::default().autodiff(),
    };
    device.seed(args.seed);
    let subject = Subject::new(args, &device)?;
    match args.what {
        Benched::Inference => inference(&subject, args, global, &device),
        Benched::Train => training::run(&subject, args, global, &device),
    }
    Ok(End::Done)
}

impl Subject {
    fn new(args: &Bench, device: &Device) -> Result<Self> {
        let (name, config, vit, agents) = match &args.run {
            Some(folder) => {
                let run = RunFolder::open(folder)?;
                let model = run.load_model(&run.checkpoint(Choice::BestPruned)?, device)?;
                let name = folder.display().to_string();
                (name, model.config().clone(), model.vit, model.agents)
            }
            None => {
                let mut config = VitPreset::from_name(&args.model)?.config();
                config.image_size = args.image_size.unwrap_or(config.image_size);
                config.validate()?;
                let layers = match args.layers.is_empty() {
                    true => LAYERS.to_vec(),
                    false => args.layers.clone(),
                };
                let threshold = 0.5;
                let agents = PruningAgentsConfig { layers, threshold };
                let agents = agents
                    .init(config.hidden_size, config.num_layers, device)
                    .context("--layers")?;
                (
                    args.model.clone(),
                    config.clone(),
                    config.init(device)?,
                    agents,
                )
            }
        };
        let rates: Vec<KeepRate> = args
            .keep
            .iter()
            .map(|&rate| KeepRate::new(rate))
            .collect::<Result<_, _>>()
            .context("--keep")?;
        let layers = agents.layers.len();
        let rates = match rates.len() {
            1 => vec![rates[0]; layers],
            given if given == layers => rates,
            given => bail!("--keep: {given} rates; expected 1 for all agents, or {layers}"),
        };
        Ok(Self {
            name,
            config,
            vit,
            agents,
            rates,
        })
    }

    fn images(&self, batch: usize, device: &Device) -> Tensor<4> {
        let size = self.config.image_size;
        Tensor::random(
            [batch, 3, size, size],
            Distribution::Normal(0.0, 1.0),
            device,
        )
    }

    /// The agents, keeping as many patches as the rates say.
    fn reducer(&self, batch: usize, ragged: bool) -> RankedReducer<'_> {
        let patches = self.config.num_patches();
        let kept = match ragged {
            true => KeptCounts::ragged(patches, batch, &self.rates),
            false => KeptCounts::uniform(patches, batch, &self.rates),
        };
        RankedReducer {
            agents: &self.agents,
            kept,
        }
    }

    /// FLOPs of an image, agents included, on average over a batch.
    fn flops(&self, trace: &[LayerTrace], batch: usize) -> f64 {
        let flops = (0..batch).map(|image| {
            let agents = self.agents.flops(self.config.hidden_size, trace, image);
            vit_flops(&self.config, trace, image) + agents
        });
        flops.sum::<u64>() as f64 / batch as f64
    }
}

/// The backends that are built in; the first of them is what runs.
fn backend() -> &'static str {
    match () {
        () if cfg!(feature = "flex") => "flex",
        () if cfg!(feature = "cuda") => "cuda",
        () if cfg!(feature = "tch") => "tch",
        () => "wgpu",
    }
}

/// A line of the result.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    backend: &'static str,
    batch: usize,
    threads: usize,
    mode: &'static str,
    /// Mean over the images, CLS counted, after each agent layer.
    tokens_per_layer: Vec<f64>,
    images_per_s: f64,
    ms_per_image: PerImage,
    flops_per_image: f64,
    /// Timed: dense over this mode, the median of the ratios of each round.
    speedup: f64,
    /// Counted: FLOPs of dense over those of this mode, agents included.
    theoretical_speedup: f64,
    /// `speedup / theoretical_speedup`
    realized: f64,
    peak_rss_mb: Option<f64>,
}

fn inference(subject: &Subject, args: &Bench, global: &Global, device: &Device) {
    let modes = if args.ragged { 3 } else { 2 };
    let rounds = (args.warmup + args.repeats) * modes * args.batch.len();
    let bar = bench_bar(rounds as u64);
    let mut rows = Vec::new();
    for &batch in &args.batch {
        let images = subject.images(batch, device);
        let reducers = [false, true].map(|ragged| subject.reducer(batch, ragged));
        let traces = [const { RefCell::new(Vec::new()) }; 3];
        let settings = [
            ("dense", RunSettings::DENSE),
            ("drop", dropping(&reducers[0])),
            ("drop-ragged", dropping(&reducers[1])),
        ];
        let cases = settings.iter().zip(&traces).take(modes);
        let mut cases: Vec<Case<'_>> = cases
            .map(|(&(name, settings), trace)| {
                let images = images.clone();
                Case::new(name, move || {
                    let output = subject.vit.forward(images.clone(), settings);
                    output.logits.into_data();
                    *trace.borrow_mut() = output.trace;
                })
            })
            .collect();
        let times = clock::time(&mut cases, args.warmup, args.repeats, &bar);
        let dense_flops = subject.flops(&[], batch);
        for ((case, own), trace) in cases.iter().zip(&times).zip(&traces) {
            let trace = trace.borrow();
            let flops = subject.flops(&trace, batch);
            let (speedup, theoretical) = (own.speedup_over(&times[0]), dense_flops / flops);
            let mean = |entry: &LayerTrace| entry.left.iter().sum::<usize>() as f64 / batch as f64;
            rows.push(Row {
                model: subject.name.clone(),
                backend: backend(),
                batch,
                threads: rayon::current_num_threads(),
                mode: case.name,
                tokens_per_layer: trace.iter().map(mean).collect(),
                images_per_s: batch as f64 / own.median(),
                ms_per_image: own.per_image(batch),
                flops_per_image: flops,
                speedup,
                theoretical_speedup: theoretical,
                realized: speedup / theoretical,
                peak_rss_mb: own.peak_rss_mb,
            });
        }
    }
    bar.finish_and_clear();
    match global.json {
        true => print_lines(&rows),
        false => print_table(&rows),
    }
}

fn dropping<'a>(reducer: &'a RankedReducer<'a>) -> RunSettings<'a> {
    RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(reducer),
    }
}

fn print_table(rows: &[Row]) {
    let mut lines = table(&[
        "mode",
        "batch",
        "tokens",
        "images/s",
        "ms/image",
        "min",
        "max",
        "FLOPs/image",
        "speed-up",
        "counted",
        "realized",
        "peak MiB",
    ]);
    for row in rows {
        let tokens: Vec<String> = row
            .tokens_per_layer
            .iter()
            .map(|n| format!("{n:.0}"))
            .collect();
        lines.add_row([
            row.mode.to_string(),
            row.batch.to_string(),
            tokens.join(" "),
            format!("{:.2}", row.images_per_s),
            format!("{:.2}", row.ms_per_image.median),
            format!("{:.2}", row.ms_per_image.min),
            format!("{:.2}", row.ms_per_image.max),
            count(row.flops_per_image),
            format!("{:.3}", row.speedup),
            format!("{:.3}", row.theoretical_speedup),
            percent(row.realized),
            row.peak_rss_mb
                .map_or("-".into(), |peak| format!("{peak:.0}")),
        ]);
    }
    if let Some(row) = rows.first() {
        println!("{}, {}, {} threads", row.model, row.backend, row.threads);
    }
    println!("{lines}");
}

/// One JSON object a line.
fn print_lines<T: Serialize>(rows: &[T]) {
    for row in rows {
        println!("{}", serde_json::json!(row));
    }
}

fn bench_bar(rounds: u64) -> ProgressBar {
    progress_bar(rounds, "passes")
}
