//! `aptvit memory build`

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use apt_data::{DataSource, ImageDataset, Progress};
use apt_inference::Model;
use apt_memory::{Remembered, check_place, create, pictures, remember, teach};
use apt_vit_model::printable_text;
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use serde_json::json;

use super::MemoryArgs;
use crate::global::Global;
use crate::model_args::ModelArgs;
use crate::progress_bar::progress_bar;
use crate::table::percent;
use crate::values::at_least_one;
use crate::{End, device};

#[derive(Debug, Parser)]
pub struct Build {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Labelled images to remember: an archive or a folder, of it the training split, else all. Best are images that
    /// the model did not learn from: of those that it did, it is surer than of others
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Remember so many images of each class at most, drawn by --seed
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    per_class: Option<usize>,
    /// Everything random derives from it
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// Replace the memory if there is one
    #[arg(long)]
    replace: bool,
}

pub fn run(args: &Build, global: &Global) -> Result<End> {
    check_place(&args.memory.memory, args.replace)?;
    let model = args.model.open(global)?;
    let images = labelled(&args.data)?;
    let images = some_of_each(&images, args.per_class, args.seed);
    let names = args.model.class_names(&model)?;
    let remembered = all_remembered(&model, &images, names)?;
    let about = teach(&model, &remembered, args.seed)?;
    let entries = remembered.into_iter();
    let entries: Vec<_> = entries.map(|one| one.entry(&about.whitening)).collect();
    let (count, width) = (entries.len(), about.width());
    let mut classes: Vec<&str> = entries.iter().map(|e| e.label.class.as_str()).collect();
    classes.sort_unstable();
    classes.dedup();
    let classes = classes.len();
    let judge = about.judge.clone();
    let address = &args.memory.memory;
    let store = create(address, about, entries, args.replace, &device::open())?;
    if global.json {
        let built = json!({
            "memory": address,
            "entries": count,
            "classes": classes,
            "features": width,
            "neighbors": judge.neighbors,
            "temperature": judge.temperature,
            "search_flops": store.search_flops(),
        });
        println!("{built}");
        return Ok(End::Done);
    }
    println!(
        "{}: {count} images of {classes} classes, {width} features each",
        printable_text(address)
    );
    println!(
        "its agent listens to {} neighbours, at a temperature of {}",
        judge.neighbors, judge.temperature
    );
    if store.search_flops() > 0 {
        let dense = apt_vit_model::vit_flops(model.pruning().config(), &[], 0);
        let share = store.search_flops() as f64 / dense as f64;
        println!("a search computes {} of a dense pass", percent(share));
    }
    Ok(End::Done)
}

/// The labelled images of a path.
pub fn labelled(path: &Path) -> Result<ImageDataset> {
    DataSource::load_labelled(path, Progress::Bar).context("--data")
}

/// What the model makes of images. Their classes are called as the model calls them, where it knows them by one of these
/// names.
pub fn all_remembered(
    model: &Model,
    images: &ImageDataset,
    names: Vec<Vec<String>>,
) -> Result<Vec<Remembered>> {
    if images.is_empty() {
        bail!("--data: there are no labelled images");
    }
    let bar = progress_bar(images.len() as u64, "images");
    let done = |count: usize| {
        bar.set_position(count as u64);
        true
    };
    let name_of = own_names(model, names);
    let class_of = |class: &str| name_of.get(class).cloned().unwrap_or_else(|| class.into());
    let found = remember(model, pictures(images, class_of), done)?;
    bar.finish_and_clear();
    Ok(found.unwrap_or_default())
}

/// What the model calls a class, by any of its names.
pub fn own_names(model: &Model, names: Vec<Vec<String>>) -> HashMap<String, String> {
    let own = model.class_names().iter().cloned();
    let pairs = names.into_iter().zip(own);
    let pairs = pairs.flat_map(|(names, own)| names.into_iter().map(move |n| (n, own.clone())));
    pairs.collect()
}

/// At most so many images of each class, drawn at random.
fn some_of_each(images: &ImageDataset, per_class: Option<usize>, seed: u64) -> ImageDataset {
    let Some(most) = per_class else {
        return images.clone();
    };
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    order.retain(|&image| {
        let count = taken.entry(images.label(image)).or_default();
        *count += 1;
        *count <= most
    });
    order.sort_unstable();
    images.subset(&order)
}
