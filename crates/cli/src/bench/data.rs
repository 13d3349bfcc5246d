//! `aptvit bench data`: how many images a second the training's loader makes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use apt_data::{
    DataSource, ImageDataset, LoaderSettings, Normalization, Progress, TrainLoader, TrainTransform,
};
use burn::data::dataloader::DataLoader;
use serde::Serialize;

use super::args::Bench;
use super::output::print_lines;
use crate::device;
use crate::global::Global;
use crate::table::table;

/// Images up to this side are not enlarged where nobody says.
const SMALL: u32 = 64;
/// Pixels of a side of the others.
const USUAL_SIDE: u32 = 224;
/// How long it is timed where nobody says.
const USUAL_TIME: Duration = Duration::from_secs(5);

/// A line of the result.
#[derive(Debug, Serialize)]
struct Row {
    data: String,
    /// Training images that there are.
    images: usize,
    /// Height and width of what is made, in pixels.
    image_size: [u32; 2],
    batch: usize,
    threads: usize,
    backend: String,
    /// Images that were made while the clock ran.
    made: usize,
    seconds: f64,
    images_per_s: f64,
    /// Until the first batch could be asked for: reading archives, decoding small images, checking others.
    load_seconds: f64,
}

pub fn run(args: &Bench, global: &Global) -> Result<()> {
    let started = Instant::now();
    let images = match &args.data {
        Some(path) => DataSource::load_to_learn(path, Progress::Bar)?,
        None => DataSource::default().load(None, Progress::Bar)?.train,
    };
    let load_seconds = started.elapsed().as_secs_f64();
    let threads = rayon::current_num_threads();
    let image_size = match args.image_size {
        Some(size) => [size.height as u32, size.width as u32],
        None => own_size(&images)?,
    };
    let device = device::open();
    let mut rows = Vec::new();
    for batch in args.batches(64) {
        let settings = LoaderSettings {
            batch_size: batch,
            image_size,
            transform: TrainTransform::default(),
            normalization: Normalization::default(),
            seed: args.seed,
            workers: threads,
        };
        // One epoch that does not end.
        let loader = TrainLoader::new(images.clone(), settings, u32::MAX as usize, 0);
        let loader = loader.to_device(&device);
        let mut batches = loader.iter();
        let mut load = || match batches.next() {
            Some(batch) => Ok(batch?.targets.len()),
            None => bail!("the loader ended"),
        };
        // Those that were made ahead are no measure of its speed.
        for _ in 0..args.warmup + TrainLoader::ahead(threads) {
            load()?;
        }
        let (time, started) = (args.seconds.unwrap_or(USUAL_TIME), Instant::now());
        let (mut rounds, mut made) = (0, 0);
        while rounds < args.repeats || started.elapsed() < time {
            made += load()?;
            rounds += 1;
        }
        device.sync()?;
        let seconds = started.elapsed().as_secs_f64();
        rows.push(Row {
            data: described(args.data.as_deref()),
            images: images.len(),
            image_size,
            batch,
            threads,
            backend: device::chosen().map_or(String::new(), |chosen| chosen.main.to_string()),
            made,
            seconds,
            images_per_s: made as f64 / seconds,
            load_seconds,
        });
    }
    if global.json {
        print_lines(&rows);
    } else {
        print_table(&rows);
    }
    Ok(())
}

/// Height and width of the first image where that is small.
fn own_size(images: &ImageDataset) -> Result<[u32; 2]> {
    let first = images.image(0)?;
    Ok(if first.width.max(first.height) <= SMALL {
        [first.height, first.width]
    } else {
        [USUAL_SIDE; 2]
    })
}

fn described(path: Option<&Path>) -> String {
    path.map_or("generated shapes".into(), |path| path.display().to_string())
}

fn print_table(rows: &[Row]) {
    let mut lines = table(&["batch", "images/s", "of each thread", "made", "seconds"]);
    for row in rows {
        lines.add_row([
            row.batch.to_string(),
            format!("{:.0}", row.images_per_s),
            format!("{:.0}", row.images_per_s / row.threads as f64),
            row.made.to_string(),
            format!("{:.1}", row.seconds),
        ]);
    }
    if let Some(row) = rows.first() {
        let [height, width] = row.image_size;
        println!(
            "{}, {} images, read in {:.1} s; to {height} x {width}, {} threads",
            row.data, row.images, row.load_seconds, row.threads
        );
    }
    println!("{lines}");
}
