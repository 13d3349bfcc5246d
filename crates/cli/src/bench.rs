//! `aptvit bench`

mod clock;
mod training;

use std::cell::RefCell;

use anyhow::{Error, Result};
use apt_pruning_agent::{KeepRate, KeptCounts, PruningAgentsConfig, RankedReducer};
use apt_rl_trainer::{
    Choice, ExperimentConfig, ModelConfig, PruningVit, TrainConfig, TrainerError,
};
use apt_vit_model::{ExecutionMode, LayerTrace, RunSettings, VitPreset};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use indicatif::ProgressBar;
use serde::Serialize;

use self::clock::{Case, PerImage, Times};
use crate::args::{Bench, Benched, Global, keep_rates};
use crate::eval::progress_bar;
use crate::table::{count, percent, table};
use crate::{End, device, open_run};

/// What is timed.
struct Subject {
    name: String,
    model: PruningVit,
    rates: Vec<KeepRate>,
}

pub fn run(args: &Bench, global: &Global) -> Result<End> {
    let device = match args.what {
        Benched::Inference => device::open(),
        Benched::Train => device::open().autodiff(),
    };
    let mut subject = Subject::new(args, global, &device)?;
    if args.what == Benched::Train && args.run.is_some() {
        // A run's model comes ready for inference.
        subject.model = subject.model.train();
    }
    device.seed(args.seed);
    match args.what {
        Benched::Inference => {
            subject.model = subject.model.prepack();
            inference(&subject, args, global, &device);
        }
        Benched::Train => training::run(&subject, args, global, &device),
    }
    Ok(End::Done)
}

impl Subject {
    fn new(args: &Bench, global: &Global, device: &Device) -> Result<Self> {
        let (name, model) = match &args.run {
            Some(folder) => {
                let run = open_run(folder, global)?;
                let model = run.load_model(&run.checkpoint(Choice::BestPruned)?, device)?;
                (folder.display().to_string(), model)
            }
            None => (args.model.clone(), preset(args, global, device)?),
        };
        let rates = keep_rates(&args.keep, model.agents.layers.len())?;
        Ok(Self { name, model, rates })
    }

    fn images(&self, batch: usize, device: &Device) -> Tensor<4> {
        let size = self.model.config().image_size;
        let normal = Distribution::Normal(0.0, 1.0);
        Tensor::random([batch, 3, size.height, size.width], normal, device)
    }

    /// How many patches the agents shall keep.
    fn kept(&self, batch: usize, ragged: bool) -> KeptCounts {
        let patches = self.model.config().num_patches();
        match ragged {
            true => KeptCounts::ragged(patches, batch, &self.rates),
            false => KeptCounts::uniform(patches, batch, &self.rates),
        }
    }

    /// FLOPs of an image, agents included, on average over a batch.
    fn flops(&self, trace: &[LayerTrace], batch: usize) -> f64 {
        let flops = (0..batch).map(|image| self.model.flops(trace, image).0);
        flops.sum::<u64>() as f64 / batch as f64
    }

    fn timed(&self, batch: usize, times: &Times) -> Timed {
        Timed {
            model: self.name.clone(),
            backend: device::chosen().map_or(String::new(), |chosen| chosen.main.to_string()),
            dtype: self.model.precision().name(),
            batch,
            threads: rayon::current_num_threads(),
            images_per_s: batch as f64 / times.median(),
            ms_per_image: times.per_image(batch),
            peak_rss_mb: times.peak_rss_mb,
        }
    }
}

/// A preset with random weights, and its agents.
fn preset(args: &Bench, global: &Global, device: &Device) -> Result<PruningVit> {
    let mut agents = PruningAgentsConfig::default();
    if !args.layers.is_empty() {
        agents.layers.clone_from(&args.layers);
    }
    let config = ExperimentConfig {
        seed: args.seed,
        model: ModelConfig {
            preset: args.model.clone(),
            image_size: args.image_size,
            ..Default::default()
        },
        agents,
        train: TrainConfig {
            dtype: global.dtype.unwrap_or_default(),
            ..Default::default()
        },
        ..Default::default()
    };
    let classes = VitPreset::from_name(&args.model)?.config().num_classes;
    PruningVit::new(&config, classes, device).map_err(|error| match error {
        TrainerError::Agent(_) => Error::new(error).context("--layers"),
        error => error.into(),
    })
}

/// What every line of a result has.
#[derive(Debug, Serialize)]
struct Timed {
    model: String,
    backend: String,
    dtype: &'static str,
    batch: usize,
    threads: usize,
    images_per_s: f64,
    ms_per_image: PerImage,
    /// In MiB.
    peak_rss_mb: Option<f64>,
}

impl Timed {
    /// What all lines of a table have in common.
    fn title(&self) -> String {
        format!("{}, {}, {} threads", self.model, self.backend, self.threads)
    }

    fn peak(&self) -> String {
        let peak = self.peak_rss_mb.map(|peak| format!("{peak:.0}"));
        peak.unwrap_or("-".into())
    }
}

/// A line of the result.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    timed: Timed,
    mode: &'static str,
    /// Mean over the images, CLS counted, after each agent layer.
    tokens_per_layer: Vec<f64>,
    flops_per_image: f64,
    /// Timed: dense over this mode, the median of the ratios of each round.
    speedup: f64,
    /// Counted: FLOPs of dense over those of this mode, agents included.
    theoretical_speedup: f64,
    /// `speedup / theoretical_speedup`
    realized: f64,
}

fn inference(subject: &Subject, args: &Bench, global: &Global, device: &Device) {
    let modes = if args.ragged { 3 } else { 2 };
    let bar = bench_bar(args, modes);
    let mut rows = Vec::new();
    for &batch in &args.batch {
        let images = subject.images(batch, device);
        let reducers = [false, true].map(|ragged| RankedReducer {
            agents: &subject.model.agents,
            kept: subject.kept(batch, ragged),
        });
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
                    let output = subject.model.vit.forward(images.clone(), settings);
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
                timed: subject.timed(batch, own),
                mode: case.name,
                tokens_per_layer: trace.iter().map(mean).collect(),
                flops_per_image: flops,
                speedup,
                theoretical_speedup: theoretical,
                realized: speedup / theoretical,
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
        let tokens = row.tokens_per_layer.iter().map(|n| format!("{n:.0}"));
        let timed = &row.timed;
        lines.add_row([
            row.mode.to_string(),
            timed.batch.to_string(),
            tokens.collect::<Vec<_>>().join(" "),
            format!("{:.2}", timed.images_per_s),
            format!("{:.2}", timed.ms_per_image.median),
            format!("{:.2}", timed.ms_per_image.min),
            format!("{:.2}", timed.ms_per_image.max),
            count(row.flops_per_image),
            format!("{:.3}", row.speedup),
            format!("{:.3}", row.theoretical_speedup),
            percent(row.realized),
            timed.peak(),
        ]);
    }
    if let Some(row) = rows.first() {
        println!("{}", row.timed.title());
    }
    println!("{lines}");
}

/// One JSON object a line.
fn print_lines<T: Serialize>(rows: &[T]) {
    for row in rows {
        println!("{}", serde_json::json!(row));
    }
}

/// For `cases` that take turns at each batch size.
fn bench_bar(args: &Bench, cases: usize) -> ProgressBar {
    let rounds = (args.warmup + args.repeats) * args.batch.len();
    progress_bar((rounds * cases) as u64, "passes")
}
