//! Images that a memory is built of, added to, or measured on.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use apt_data::{DataSource, ImageDataset, Progress};
use apt_inference::Model;
use apt_memory::{MemoryError, Picture, Remembered, Store, pictures, remember};

use crate::model_args::ModelArgs;
use crate::progress_bar::progress_bar;

/// The labelled images of a path.
pub fn labelled(path: &Path) -> Result<ImageDataset> {
    let images = DataSource::load_labelled(path, Progress::Bar).context("--data")?;
    if images.is_empty() {
        bail!("--data: there are no labelled images");
    }
    Ok(images)
}

/// What the model makes of images, whose classes are called as the model calls them.
pub fn all_remembered(
    model: &Model,
    images: &ImageDataset,
    names: &OwnNames,
) -> Result<Vec<Remembered>> {
    let class_of = |class: &str| names.of(class).to_string();
    remembered(model, images.len(), pictures(images, class_of))
}

/// What the model makes of so many pictures, with a bar.
pub fn remembered(
    model: &Model,
    count: usize,
    pictures: impl Iterator<Item = Result<Picture, MemoryError>>,
) -> Result<Vec<Remembered>> {
    let bar = progress_bar(count as u64, "images");
    let found = remember(model, pictures, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    Ok(found)
}

/// The pictures that a memory holds, by their ids.
pub fn ids(store: &dyn Store) -> Result<HashSet<String>, MemoryError> {
    Ok(store.list()?.into_iter().map(|label| label.id).collect())
}

/// What a model calls a class, by any of its names.
pub struct OwnNames(HashMap<String, String>);

impl OwnNames {
    /// Those of a model of the command line.
    pub fn new(args: &ModelArgs, model: &Model) -> Result<Self> {
        let own = model.class_names().iter();
        let pairs = args.class_names(model)?.into_iter().zip(own);
        let pairs =
            pairs.flat_map(|(names, own)| names.into_iter().map(|name| (name, own.clone())));
        Ok(Self(pairs.collect()))
    }

    /// The name by which the model calls the class; the class's own where the model does not know it.
    pub fn of<'a>(&'a self, class: &'a str) -> &'a str {
        self.0.get(class).map_or(class, String::as_str)
    }
}
