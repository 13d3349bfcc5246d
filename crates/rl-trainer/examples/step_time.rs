//! Times the parts of a training step: `step_time [preset] [batch] [repeats] [part of a name]`.
use std::time::Instant;

use apt_pruning_agent::{KeepRate, PruningAgentsConfig, RandomReducer};
use apt_rl_trainer::counterfactual::{choose_cuts, cross_entropy, stream_0, stream_2};
use apt_vit_model::{ExecutionMode, RunSettings, VitConfig, VitPreset};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::Distribution;

/// What this process has used of the processors so far, all threads together: does not grow
/// while other programs have them.
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let preset = args.next().unwrap_or_else(|| "vit-small32".into());
    let batch: usize = args.next().map_or(Ok(64), |arg| arg.parse())?;
    let repeats: usize = args.next().map_or(Ok(5), |arg| arg.parse())?;
    let only = args.next().unwrap_or_default();
    let device = Device::default().autodiff();
    device.seed(1);
    let mut config = VitPreset::from_name(&preset)?.config();
    config.dropout = 0.0;
    let vit = config.init(&device)?;
    let dropping = VitConfig {
        dropout: 0.1,
        ..config.clone()
    }
    .init(&device)?;
    let layers = vec![2, 5, 8];
    let agents = PruningAgentsConfig {
        layers: layers.clone(),
        threshold: 0.5,
    };
    let agents = agents.init(config.hidden_size, config.num_layers, &device)?;
    let size = config.image_size;
    let images = Tensor::<4>::random([batch, 3, size, size], Distribution::Default, &device);
    let targets: Vec<usize> = (0..batch).map(|index| index % 10).collect();
    let seeds: Vec<u64> = (0..batch as u64).collect();
    let rate = KeepRate::new(0.7)?;
    let random = RandomReducer {
        layers: layers.iter().map(|&l| (l, rate)).collect(),
        seeds: seeds.clone(),
    };

    println!(
        "{:34} {:>10} {:>10} {:>10} {:>10}",
        "ms", "best", "median", "best CPU", "images/s"
    );
    let time = |name: &str, run: &mut dyn FnMut()| {
        if !name.contains(&only) {
            return;
        }
        run();
        let mut times = Vec::new();
        let mut cpu = Vec::new();
        for _ in 0..repeats {
            let (start, before) = (Instant::now(), cpu_ms());
            run();
            times.push(start.elapsed().as_secs_f64() * 1e3);
            cpu.push(cpu_ms() - before);
        }
        times.sort_by(f64::total_cmp);
        cpu.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[repeats / 2]);
        println!(
            "{name:34} {best:10.2} {median:10.2} {:10.2} {:10.1}",
            cpu[0],
            batch as f64 / best * 1e3
        );
    };
    let (valid, valid_agents) = (vit.valid(), agents.valid());
    let plain = images.clone().inner();
    time("valid()", &mut || {
        let _ = vit.valid();
    });
    time("dense forward", &mut || {
        valid
            .forward(plain.clone(), RunSettings::DENSE)
            .logits
            .into_data();
    });
    for mode in [ExecutionMode::Mask, ExecutionMode::Drop] {
        let settings = RunSettings {
            mode,
            reducer: Some(&random),
        };
        time(&format!("{mode:?} 0.7 forward"), &mut || {
            valid.forward(plain.clone(), settings).logits.into_data();
        });
        time(&format!("{mode:?} 0.7 forward + backward"), &mut || {
            let logits = vit.forward(images.clone(), settings).logits;
            let grads = cross_entropy(logits, &targets).backward();
            let _ = vit
                .head
                .weight
                .val()
                .grad(&grads)
                .map(|grad| grad.into_data());
        });
        let acting = valid_agents.acting(0.5);
        let settings = RunSettings {
            mode,
            reducer: Some(&acting),
        };
        time(&format!("{mode:?} agents (ragged) fwd+bwd"), &mut || {
            let logits = vit.forward(images.clone(), settings).logits;
            let grads = cross_entropy(logits, &targets).backward();
            let _ = vit
                .head
                .weight
                .val()
                .grad(&grads)
                .map(|grad| grad.into_data());
        });
    }
    time("dense forward + backward", &mut || {
        let logits = vit.forward(images.clone(), RunSettings::DENSE).logits;
        let grads = cross_entropy(logits, &targets).backward();
        let _ = vit
            .head
            .weight
            .val()
            .grad(&grads)
            .map(|grad| grad.into_data());
    });
    time("dense forward + backward, dropout", &mut || {
        let logits = dropping.forward(images.clone(), RunSettings::DENSE).logits;
        let grads = cross_entropy(logits, &targets).backward();
        let _ = dropping
            .head
            .weight
            .val()
            .grad(&grads)
            .map(|grad| grad.into_data());
    });
    time("stream 0", &mut || {
        stream_0(&valid, &valid_agents, plain.clone(), &targets)
            .logits
            .into_data();
    });
    let dense = stream_0(&valid, &valid_agents, plain.clone(), &targets);
    time("stream 2, all layers", &mut || {
        for (observed, agent) in dense.observed.iter().zip(&agents.agents) {
            let cuts = choose_cuts(observed, &seeds);
            stream_2(&valid, agent, &dense, observed, &cuts, &targets)
                .loss
                .backward();
        }
    });
    Ok(())
}
