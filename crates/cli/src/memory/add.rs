//! `aptvit memory add`

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use apt_data::RgbImage;
use apt_memory::{MemoryError, Picture, Recall, open, remember};
use apt_vit_model::printable_text;
use clap::Parser;
use serde_json::json;

use super::MemoryArgs;
use super::build::{all_remembered, labelled};
use crate::global::Global;
use crate::model_args::ModelArgs;
use crate::progress_bar::progress_bar;
use crate::{End, device};

#[derive(Debug, Parser)]
pub struct Add {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Labelled images: an archive or a folder with a folder for each class
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with = "class",
        required_unless_present = "class"
    )]
    data: Option<PathBuf>,
    /// The class of the pictures that are named
    #[arg(long, value_name = "NAME", requires = "paths")]
    class: Option<String>,
    /// Pictures of that class
    #[arg(value_name = "PICTURE", requires = "class")]
    paths: Vec<PathBuf>,
}

pub fn run(args: &Add, global: &Global) -> Result<End> {
    let model = args.model.open(global)?;
    let store = open(&args.memory.memory, &device::open())?;
    let mut recall = Recall::new(model, store)?;
    let model = recall.model();
    let names = args.model.class_names(model)?;
    let remembered = match (&args.data, &args.class) {
        (Some(data), _) => all_remembered(model, &labelled(data)?, names)?,
        (None, Some(class)) => {
            let class = class.trim();
            if class.is_empty() {
                bail!("--class: expected a name");
            }
            let name_of = super::build::own_names(model, names);
            let class = name_of.get(class).map_or(class, String::as_str);
            let bar = progress_bar(args.paths.len() as u64, "images");
            let done = |count: usize| {
                bar.set_position(count as u64);
                true
            };
            let pictures = args.paths.iter().map(|path| picture(path, class));
            let found = remember(model, pictures, done)?;
            bar.finish_and_clear();
            found.unwrap_or_default()
        }
        (None, None) => bail!("--data or --class: say which images"),
    };
    let count = remembered.len();
    recall.add(remembered)?;
    let all = recall.store().list()?.len();
    if global.json {
        println!(
            "{}",
            json!({ "memory": args.memory.memory, "added": count, "entries": all })
        );
    } else {
        let address = printable_text(&args.memory.memory);
        println!("{address}: {count} images added, {all} in all");
    }
    Ok(End::Done)
}

fn picture(path: &Path, class: &str) -> Result<Picture, MemoryError> {
    Ok(Picture {
        image: RgbImage::open(path)?,
        class: class.into(),
        source: path.display().to_string(),
    })
}
