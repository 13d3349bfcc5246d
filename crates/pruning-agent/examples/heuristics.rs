//! How many tokens each reducer leaves of the same random images.

use apt_pruning_agent::{ClsAttentionReducer, KeepRate, PruningAgentsConfig, RandomReducer};
use apt_vit_model::{ExecutionMode, RunSettings, TokenReducer, VitPreset, vit_flops};
use burn::tensor::{Device, Distribution, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::default();
    device.seed(1);
    let config = VitPreset::Small32.config();
    let vit = config.init(&device)?;
    let agents = PruningAgentsConfig::default();
    let agents = agents.init(config.hidden_size, config.num_layers, &device)?;
    let layers: Vec<(usize, KeepRate)> = [2, 5, 8]
        .into_iter()
        .map(|layer| Ok((layer, KeepRate::new(0.7)?)))
        .collect::<Result<_, apt_pruning_agent::AgentError>>()?;
    let random = RandomReducer {
        layers: layers.clone(),
        seeds: vec![1, 2, 3, 4],
    };
    let attention = ClsAttentionReducer { layers };
    let acting = agents.acting(0.5);
    let reducers: [(&str, &dyn TokenReducer); 3] = [
        ("untrained agents", &acting),
        ("random, 0.7", &random),
        ("CLS attention, 0.7", &attention),
    ];

    let images = Tensor::<4>::random([4, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
    for (name, reducer) in reducers {
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(reducer),
        };
        let trace = vit.forward(images.clone(), settings).trace;
        println!("{name}:");
        for entry in &trace {
            println!(
                "  after block {}: {:?} tokens left",
                entry.layer, entry.left
            );
        }
        let share = vit_flops(&config, &trace, 0) as f64 / vit_flops(&config, &[], 0) as f64;
        println!("  FLOPs of the first image: {:.0}% of dense", 100.0 * share);
    }
    Ok(())
}
