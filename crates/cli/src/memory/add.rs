//! `aptvit memory add`

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use apt_data::RgbImage;
use apt_memory::{MemoryError, Picture, Recall, open};
use apt_vit_model::printable_text;
use clap::Parser;
use serde_json::json;

use super::MemoryArgs;
use super::images::{OwnNames, all_remembered, ids, labelled, remembered};
use crate::global::Global;
use crate::model_args::ModelArgs;
use crate::named_pictures::named_pictures;
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
    /// Pictures of that class, or folders of them
    #[arg(value_name = "PICTURE", requires = "class")]
    paths: Vec<PathBuf>,
}

pub fn run(args: &Add, global: &Global) -> Result<End> {
    let model = args.model.open(global)?;
    let store = open(&args.memory.memory, &device::open())?;
    let mut recall = Recall::new(model, store)?;
    let model = recall.model();
    let names = OwnNames::new(&args.model, model)?;
    let remembered = match (&args.data, &args.class) {
        (Some(data), _) => all_remembered(model, &labelled(data)?, &names)?,
        (None, Some(class)) => {
            let class = names.of(class.trim());
            if class.is_empty() {
                bail!("--class: expected a name");
            }
            let paths = named_pictures(&args.paths)?;
            let pictures = paths.iter().map(|path| picture(path, class));
            remembered(model, paths.len(), pictures)?
        }
        (None, None) => bail!("--data or --class: say which images"),
    };
    let known = ids(recall.store()?)?;
    let replaced = remembered
        .iter()
        .filter(|one| known.contains(&one.label.id))
        .count();
    let added = remembered.len() - replaced;
    recall.add(remembered)?;
    let all: usize = recall.store()?.counts()?.values().sum();
    if global.json {
        println!(
            "{}",
            json!({
                "memory": args.memory.memory,
                "added": added,
                "replaced": replaced,
                "entries": all,
            })
        );
    } else {
        let address = printable_text(&args.memory.memory);
        println!(
            "{address}: {added} added, {replaced} in the place of the same pictures, {all} images in all"
        );
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
