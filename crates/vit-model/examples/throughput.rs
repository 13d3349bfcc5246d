//! Images per second, dense and with half of the tokens dropped after a third of the blocks:
//! `cargo run --release -p apt-vit-model --example throughput -- [preset] [batch] [f32|bf16|int8]`.
#![allow(clippy::disallowed_methods)]

use std::time::Instant;

use apt_vit_model::{
    ExecutionMode, ImageSize, Observation, Placement, Precision, Reduction, RunSettings,
    TokenReducer, VitPreset,
};
use burn::tensor::{Device, Distribution, Tensor};

/// Tensors come and go by the dozen of megabytes; an allocator that keeps their pages saves a
/// good part of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps every second token.
struct EverySecond {
    layer: usize,
}

impl TokenReducer for EverySecond {
    fn placement(&self, layer: usize) -> Option<Placement> {
        (layer == self.layer).then_some(Placement::AfterBlock)
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let slots = (0..sequences.batch()).flat_map(|slot| sequences.positions(slot));
        Reduction::keep(slots.map(|position| position % 2 == 0).collect())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let preset = args.next().unwrap_or_else(|| "vit-s16".into());
    let batch: usize = args.next().map_or(Ok(8), |arg| arg.parse())?;

    let device = Device::default();
    let config = VitPreset::from_name(&preset)?.config();
    let wanted = args.next();
    let precision = match &wanted {
        None => Precision::F32,
        Some(name) => Precision::ALL
            .into_iter()
            .find(|precision| precision.name() == name)
            .ok_or("expected f32, bf16, f16 or int8")?,
    };
    let vit = config.init(&device)?.with_precision(precision).prepack();
    let ImageSize { height, width } = config.image_size;
    let images = Tensor::<4>::random([batch, 3, height, width], Distribution::Default, &device);
    let half = EverySecond {
        layer: config.num_layers / 3,
    };
    let dropped = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&half),
    };

    // In turns, so that both meet the same machine; the first round warms up.
    let mut times = [Vec::new(), Vec::new()];
    let start = Instant::now();
    while times[0].len() < 4 || start.elapsed().as_secs() < 5 {
        for (settings, times) in [RunSettings::DENSE, dropped].into_iter().zip(&mut times) {
            let start = Instant::now();
            vit.forward(images.clone(), settings).logits.into_data();
            times.push(start.elapsed().as_secs_f64());
        }
    }
    println!(
        "{preset}, {}, batch {batch}, {} threads, images/s (median of {} runs)",
        precision.name(),
        rayon::current_num_threads(),
        times[0].len() - 1
    );
    for (name, times) in ["dense", "half dropped"].iter().zip(&mut times) {
        times.remove(0);
        times.sort_by(f64::total_cmp);
        println!("{name:12} {:9.1}", batch as f64 / times[times.len() / 2]);
    }
    Ok(())
}
