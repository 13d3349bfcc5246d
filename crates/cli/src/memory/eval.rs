//! `aptvit memory eval`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use apt_data::{DataSource, ImageDataset, Progress, RgbImage};
use apt_memory::{Recall, Recalled, open, picture_id};
use apt_vit_model::printable_text;
use clap::Parser;
use serde_json::json;

use super::MemoryArgs;
use super::images::{OwnNames, ids};
use crate::global::Global;
use crate::model_args::ModelArgs;
use crate::progress_bar::progress_bar;
use crate::table::{percent, table};
use crate::values::{at_least_one, batch_size};
use crate::{End, device};

#[derive(Debug, Parser)]
pub struct Eval {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Labelled images: of an archive or a folder its test split, else its validation split, else all of it
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Images of a forward pass
    #[arg(long, value_name = "N", default_value = "32", value_parser = batch_size)]
    batch_size: usize,
    /// Measure only the first so many images
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
}

/// How the images of one class were answered.
#[derive(Clone, Copy, Default)]
struct Count {
    images: usize,
    right_alone: usize,
    right: usize,
    asked: usize,
}

impl Count {
    fn add(&mut self, recalled: &Recalled, class: &str) {
        let is_right = |classes: &[apt_inference::ClassProbability]| {
            usize::from(classes.first().is_some_and(|first| first.class == class))
        };
        self.images += 1;
        self.right_alone += is_right(&recalled.lookup.alone);
        self.right += is_right(&recalled.answer.classes);
        self.asked += usize::from(recalled.lookup.share.is_some());
    }

    fn shares(&self) -> [f64; 3] {
        [self.right_alone, self.right, self.asked]
            .map(|count| count as f64 / self.images.max(1) as f64)
    }
}

pub fn run(args: &Eval, global: &Global) -> Result<End> {
    let model = args.model.open(global)?;
    let names = OwnNames::new(&args.model, &model)?;
    let recall = Recall::new(model, open(&args.memory.memory, &device::open())?)?;
    let (images, from) = DataSource::load_to_measure(&args.data, Default::default(), Progress::Bar)
        .context("--data")?;
    if !images.is_labelled() {
        bail!(
            "--data {}: has no labels; expected a folder for each class",
            printable_text(&from)
        );
    }
    let images = images.take(args.limit.unwrap_or(images.len()));
    // Where the memory is away, the model answers alone.
    let known = recall.store().and_then(ids).unwrap_or_default();
    let mut held = 0;
    let bar = progress_bar(images.len() as u64, "images");
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    let mut all = Count::default();
    let mut flops_share = 0.0;
    let mut time = Duration::ZERO;
    let mut failure = None;
    let places: Vec<usize> = (0..images.len()).collect();
    for batch in places.chunks(args.batch_size) {
        let pictures: Vec<RgbImage> = batch
            .iter()
            .map(|&i| images.image(i))
            .collect::<Result<_, _>>()?;
        held += pictures
            .iter()
            .filter(|picture| known.contains(&picture_id(picture)))
            .count();
        let tensor = recall.model().preprocess(&pictures);
        let begun = Instant::now();
        let found = recall.answers(recall.model().forward(tensor), 1);
        time += begun.elapsed();
        for (&image, recalled) in batch.iter().zip(found) {
            let recalled = recalled.with_context(|| images.name(image))?;
            let class = names.of(class_of(&images, image));
            counts
                .entry(class.to_string())
                .or_default()
                .add(&recalled, class);
            all.add(&recalled, class);
            flops_share += recalled.answer.flops_share;
            failure = failure.or(recalled.lookup.failure);
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    let flops_share = flops_share / images.len().max(1) as f64;
    let per_second = images.len() as f64 / time.as_secs_f64();
    if let Some(failure) = &failure {
        eprintln!("the memory could not be asked, and the model answered alone: {failure}");
    }
    if held > 0 {
        eprintln!(
            "{held} of {} images are in the memory, which finds them: these say nothing about new ones",
            images.len()
        );
    }
    if global.json {
        let entry = |class: &str, count: &Count| {
            let [alone, with_memory, asked] = count.shares();
            json!({
                "class": class, "images": count.images, "accuracy_alone": alone, "accuracy": with_memory, "asked": asked,
            })
        };
        let classes: Vec<_> = counts
            .iter()
            .map(|(class, count)| entry(class, count))
            .collect();
        let mut found = entry("all", &all);
        found["data"] = json!(from);
        found["classes"] = json!(classes);
        found["flops_share"] = json!(flops_share);
        found["images_per_s"] = json!(per_second);
        found["failure"] = json!(failure);
        found["in_memory"] = json!(held);
        println!("{found}");
        return Ok(End::Done);
    }
    let mut rows = table(&["class", "images", "model alone", "with its memory", "asked"]);
    let all_row = ("all".to_string(), all);
    for (class, count) in counts.into_iter().chain([all_row]) {
        let [alone, with_memory, asked] = count.shares().map(percent);
        let images = count.images.to_string();
        rows.add_row([printable_text(&class), images, alone, with_memory, asked]);
    }
    println!("{rows}");
    println!(
        "{} of the dense model's FLOPs, searches included; {per_second:.1} images/s",
        percent(flops_share)
    );
    Ok(End::Done)
}

fn class_of(images: &ImageDataset, image: usize) -> &str {
    &images.class_names()[images.label(image)]
}
