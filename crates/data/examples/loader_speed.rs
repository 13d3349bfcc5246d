//! How many images a second the training loader makes.
//!
//! `cargo run --release -p apt-data --example loader_speed [PATH]`: from generated shapes, or from
//! an image folder or archive.

use apt_data::{
    DataSource, ImageDataset, LoaderSettings, Normalization, Progress, TrainLoader, TrainTransform,
};
use burn::data::dataloader::DataLoader;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1);
    let source = match path {
        Some(_) => DataSource::Cifar10 {},
        None => DataSource::default(),
    };
    let started = Instant::now();
    let splits = source.load(path.as_deref().map(Path::new), Progress::Bar)?;
    println!(
        "loaded {} + {} images in {:.2} s",
        splits.train.len(),
        splits.test.len(),
        started.elapsed().as_secs_f64()
    );
    for (image_size, images) in [(32, 40_000), (224, 4_000)] {
        for workers in 0..=2 {
            measure(&splits.train, image_size, images, workers)?;
        }
    }
    Ok(())
}

fn measure(
    dataset: &ImageDataset,
    image_size: u32,
    images: usize,
    workers: usize,
) -> Result<(), Box<dyn Error>> {
    let settings = LoaderSettings {
        batch_size: 50,
        image_size: [image_size; 2],
        transform: TrainTransform::default(),
        normalization: Normalization::HALF,
        seed: 0,
        workers,
    };
    let loader = TrainLoader::new(dataset.clone(), settings, images / 50, 0);
    let started = Instant::now();
    for batch in loader.iter() {
        std::hint::black_box(batch?);
    }
    println!(
        "{image_size} x {image_size}, {workers} workers: {:.0} images/s",
        images as f64 / started.elapsed().as_secs_f64()
    );
    Ok(())
}
