//! `aptvit memory build`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use apt_data::ImageDataset;
use apt_memory::{check_place, create, teach};
use apt_vit_model::printable_text;
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use serde_json::json;

use super::MemoryArgs;
use super::images::{OwnNames, all_remembered, labelled};
use crate::global::Global;
use crate::model_args::ModelArgs;
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
    let names = OwnNames::new(&args.model, &model)?;
    let remembered = all_remembered(&model, &images, &names)?;
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
