//! How many tokens each policy leaves of the same random images, at 70 percent of the dense FLOPs.

use apt_pruning_agent::{PolicyConfig, Selection, policies};
use apt_vit_model::{ExecutionMode, RunSettings, VitPreset, vit_flops};
use burn::tensor::{Device, Distribution, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::default();
    device.seed(1);
    let config = VitPreset::Small32.config();
    let vit = config.init(&device)?;
    let images = Tensor::<4>::random([4, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
    for entry in policies().iter().filter(|entry| entry.name != "dense") {
        let policy = PolicyConfig::named(entry.name)?.init(&config, &device)?;
        let kept = policy.kept_for(&config, 0.7)?;
        let reducer = policy.reducer(&Selection::Kept { kept }, &[1, 2, 3, 4]);
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(&*reducer),
        };
        let trace = vit.forward(images.clone(), settings).trace;
        println!("{}: {}", entry.name, entry.summary);
        for block in &trace {
            println!(
                "  after block {}: {:?} tokens left",
                block.layer, block.left
            );
        }
        let flops = vit_flops(&config, &trace, 0) + policy.trace_flops(&config, &trace, 0);
        let share = flops as f64 / vit_flops(&config, &[], 0) as f64;
        println!("  FLOPs of the first image: {:.0}% of dense", 100.0 * share);
    }
    Ok(())
}
