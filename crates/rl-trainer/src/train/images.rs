//! Which images a training has, and what for.

use std::path::Path;

use apt_data::{ImageDataset, Progress, Splits};

use crate::TrainerError;
use crate::config::ExperimentConfig;
use crate::run::RunFolder;

/// Training images, held-out images, test images.
pub(crate) struct Images {
    pub train: ImageDataset,
    pub held_out: ImageDataset,
    pub test: ImageDataset,
}

pub(crate) fn load_images(
    config: &ExperimentConfig,
    data: Option<&Path>,
    progress: Progress,
) -> Result<Images, TrainerError> {
    split_images(config, config.load_data(data, progress)?)
}

/// Holds images out, takes as many as the config asks for, and replaces patches where it says so.
pub(crate) fn split_images(
    config: &ExperimentConfig,
    splits: Splits,
) -> Result<Images, TrainerError> {
    let Splits { train, val, test } = splits;
    let held_out = config.input.val_images;
    if val.is_none() && train.len() <= held_out {
        return Err(TrainerError::Field {
            field: "input.val_images".into(),
            found: held_out.to_string(),
            expected: format!(
                "must be below the {} training images there are",
                train.len()
            ),
        });
    }
    let (train, held_out) = match val {
        Some(val) => (train, at_most(&val, held_out, config.val_seed())),
        None => train.hold_out(held_out, config.val_seed()),
    };
    let limit = |dataset: ImageDataset, count: Option<usize>| match count {
        Some(count) => dataset.take(count),
        None => dataset,
    };
    Ok(Images {
        train: config.corrupted(limit(train, config.input.train_images))?,
        held_out: config.corrupted(held_out)?,
        test: config.corrupted(limit(test, config.input.test_images))?,
    })
}

/// So many of the images, chosen by the seed; all where there are no more.
fn at_most(images: &ImageDataset, count: usize, seed: u64) -> ImageDataset {
    if images.len() <= count {
        images.clone()
    } else {
        images.hold_out(count, seed).1
    }
}

/// The images that the run's checkpoints are chosen by: held out from its training images, or of its validation split.
///
/// # Errors
///
/// Where the run's data cannot be read, or are of other classes than the run's.
pub fn held_out_images(
    run: &RunFolder,
    data: Option<&Path>,
    progress: Progress,
) -> Result<ImageDataset, TrainerError> {
    let data = data.or(run.description().data.as_deref());
    let splits = run.config.load_data(data, progress)?;
    let names = run.description().class_names.iter();
    let names: Vec<Vec<String>> = names.map(|name| vec![name.clone()]).collect();
    let images = split_images(&run.config, splits)?;
    Ok(images.held_out.with_classes(&names)?)
}
