//! Times the parts of a training step: `step_time [preset] [batch] [rounds] [part of a name]`.
//!
//! The parts run in turns, so that their ratios hold on a machine that others use too. `CPU` is
//! the time of all threads together, which others do not add to.

use std::time::Instant;

use apt_pruning_agent::{KeepRate, PruningAgentsConfig, RandomReducer};
use apt_rl_trainer::counterfactual::{choose_cuts, cross_entropy, stream_0, stream_2};
use apt_vit_model::{
    ExecutionMode, Observation, Placement, Reduction, RunSettings, TokenReducer, Vit, VitConfig,
    VitPreset,
};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::Distribution;

/// Keeps 0.4 of the first image's tokens and all of the last's, those between in equal steps:
/// 0.7 on average.
struct Ragged {
    layers: Vec<usize>,
}

impl TokenReducer for Ragged {
    fn placement(&self, layer: usize) -> Option<Placement> {
        let acts = self.layers.contains(&layer);
        acts.then_some(Placement::AfterBlock)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let mut keep = Vec::with_capacity(sequences.num_rows());
        for slot in 0..sequences.batch() {
            let last = (sequences.batch() - 1).max(1);
            let rate = 0.4 + 0.6 * sequences.image(slot) as f64 / last as f64;
            let tokens = sequences.positions(slot).len() as f64;
            let kept = |row: usize| ((row + 1) as f64 * rate).floor() > (row as f64 * rate).floor();
            keep.extend((0..tokens as usize).map(kept));
        }
        Reduction { keep, logits: None }
    }
}

/// What this process has used of the processors so far, in milliseconds.
fn cpu_ms() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0.0;
    };
    let used = tasks.flatten().filter_map(|task| {
        let line = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        line.split(' ').next()?.parse::<f64>().ok()
    });
    used.sum::<f64>() / 1e6
}

/// A part of the step: its name, and what runs it.
type Part<'a> = (&'a str, Box<dyn Fn() + 'a>);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let preset = args.next().unwrap_or_else(|| "vit-small32".into());
    let batch: usize = args.next().map_or(Ok(64), |arg| arg.parse())?;
    let rounds: usize = args.next().map_or(Ok(5), |arg| arg.parse())?;
    let only = args.next().unwrap_or_default();

    let device = Device::default().autodiff();
    device.seed(1);
    let config = VitPreset::from_name(&preset)?.config();
    let model = |dropout| {
        VitConfig {
            dropout,
            ..config.clone()
        }
        .init(&device)
    };
    let (vit, dropping) = (model(0.0)?, model(0.1)?);
    let depth = config.num_layers;
    let layers = vec![depth / 4, depth / 2, depth - 2];
    let agents = PruningAgentsConfig {
        layers: layers.clone(),
        threshold: 0.5,
    };
    let agents = agents.init(config.hidden_size, depth, &device)?;
    let size = config.image_size;
    let images = Tensor::<4>::random([batch, 3, size, size], Distribution::Default, &device);
    let targets: Vec<usize> = (0..batch).map(|index| index % config.num_classes).collect();
    let seeds: Vec<u64> = (0..batch as u64).collect();
    let rate = KeepRate::new(0.7)?;
    let uniform = RandomReducer {
        layers: layers.iter().map(|&layer| (layer, rate)).collect(),
        seeds: seeds.clone(),
    };
    let ragged = Ragged { layers };
    let (valid, valid_agents) = (vit.valid(), agents.valid());
    let plain = images.clone().inner();
    let observed = stream_0(&valid, &valid_agents, plain.clone(), &targets);

    let infer = |settings: RunSettings<'_>| {
        valid.forward(plain.clone(), settings).logits.into_data();
    };
    let train = |vit: &Vit, settings: RunSettings<'_>| {
        let logits = vit.forward(images.clone(), settings).logits;
        let gradients = cross_entropy(logits, &targets).backward();
        let _ = vit
            .head
            .weight
            .val()
            .grad(&gradients)
            .map(|gradient| gradient.into_data());
    };
    let mask = RunSettings {
        mode: ExecutionMode::Mask,
        reducer: Some(&uniform),
    };
    let drop = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&uniform),
    };
    let drop_ragged = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&ragged),
    };
    let dense = RunSettings::DENSE;
    let acting = valid_agents.acting(0.5);
    let agents_act = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&acting),
    };

    let mut parts: Vec<Part<'_>> = vec![
        ("forward, dense", Box::new(|| infer(dense))),
        ("forward, 0.7 masked", Box::new(|| infer(mask))),
        ("forward, 0.7 dropped", Box::new(|| infer(drop))),
        (
            "forward, 0.7 dropped, ragged",
            Box::new(|| infer(drop_ragged)),
        ),
        ("training, dense", Box::new(|| train(&vit, dense))),
        (
            "training, dense, dropout",
            Box::new(|| train(&dropping, dense)),
        ),
        ("training, 0.7 masked", Box::new(|| train(&vit, mask))),
        ("training, 0.7 dropped", Box::new(|| train(&vit, drop))),
        (
            "training, 0.7 dropped, ragged",
            Box::new(|| train(&vit, drop_ragged)),
        ),
        ("training, agents act", Box::new(|| train(&vit, agents_act))),
        (
            "stream 0",
            Box::new(|| {
                let pass = stream_0(&valid, &valid_agents, plain.clone(), &targets);
                pass.logits.into_data();
            }),
        ),
        (
            "stream 2, all agents",
            Box::new(|| {
                for (observed_here, agent) in observed.observed.iter().zip(&agents.agents) {
                    let cuts = choose_cuts(observed_here, &seeds);
                    let pass = stream_2(&valid, agent, &observed, observed_here, &cuts, &targets);
                    pass.loss.backward();
                }
            }),
        ),
    ];
    parts.retain(|(name, _)| name.contains(&only));

    let mut times = vec![(Vec::new(), Vec::new()); parts.len()];
    for round in 0..=rounds {
        for ((_, run), (wall, cpu)) in parts.iter().zip(&mut times) {
            let (start, before) = (Instant::now(), cpu_ms());
            run();
            // The first round warms up.
            if round > 0 {
                wall.push(start.elapsed().as_secs_f64() * 1e3);
                cpu.push(cpu_ms() - before);
            }
        }
    }
    println!(
        "{:30} {:>9} {:>9} {:>9} {:>9}",
        "ms", "best", "median", "best CPU", "images/s"
    );
    for ((name, _), (mut wall, mut cpu)) in parts.iter().zip(times) {
        wall.sort_by(f64::total_cmp);
        cpu.sort_by(f64::total_cmp);
        let (best, median) = (wall[0], wall[rounds / 2]);
        let rate = batch as f64 / best * 1e3;
        println!(
            "{name:30} {best:9.2} {median:9.2} {:9.2} {rate:9.1}",
            cpu[0]
        );
    }
    Ok(())
}
