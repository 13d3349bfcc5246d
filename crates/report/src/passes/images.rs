//! The test images on which a model is run.

use std::path::Path;

use apt_data::{CifarLabels, DataSource, ImageDataset, LoadOptions, OnBad, Progress, cache_folder};
use apt_inference::{Model, ModelSource, imagenet_ids};
use apt_rl_trainer::RunFolder;
use apt_vit_model::printable;

use crate::ReportError;
use crate::folder::Folder;

/// The test images of a folder's model, or those that the user gives, and where they are.
///
/// # Errors
///
/// Where there are none, or they cannot be read; the message is a sentence for the page.
pub(super) fn test_images(
    folder: &Folder,
    model: &Model,
    data: Option<&Path>,
) -> Result<(ImageDataset, String), ReportError> {
    let options = LoadOptions {
        progress: Progress::Hidden,
        on_bad: OnBad::Skip,
    };
    let labels = if model.class_names().len() == 20 {
        CifarLabels::Coarse
    } else {
        CifarLabels::Fine
    };
    if let Some(data) = data {
        return measured(data, labels, options, model);
    }
    if model.source() == ModelSource::Run {
        let run = RunFolder::open(&folder.path)?;
        let data = run.description().data.clone();
        if let Some(reason) = not_at_hand(&run.config.data, data.as_deref()) {
            return Err(ReportError::folder(&folder.path, reason));
        }
        let test = run.config.data.load(data.as_deref(), options)?.test;
        let limit = run.config.input.test_images.unwrap_or(test.len());
        let from = match data {
            Some(data) => format!("the test images of {}", printable(&data)),
            None => format!("the test images of {}", run.config.data.name()),
        };
        return Ok((test.take(limit), from));
    }
    let Some(data) = folder.pruning.text("/data").map(Path::new) else {
        let reason = "the folder names no images; name some with --data";
        return Err(ReportError::folder(&folder.path, reason));
    };
    if !data.exists() {
        return Err(ReportError::folder(
            data,
            "the images are not there any more; name others with --data",
        ));
    }
    measured(data, labels, options, model)
}

/// Why the images cannot be read without a download; `None` if they can.
fn not_at_hand(source: &DataSource, data: Option<&Path>) -> Option<String> {
    let archive = match (source, data) {
        (_, Some(data)) => {
            let gone = format!(
                "its images are not at {} any more; name others with --data",
                printable(data)
            );
            return (!data.exists()).then_some(gone);
        }
        (DataSource::Shapes { .. }, None) => return None,
        (DataSource::Cifar10 {}, None) => "cifar-10-binary.tar.gz",
        (DataSource::Cifar100 { .. }, None) => "cifar-100-binary.tar.gz",
        (DataSource::Folder { .. }, None) => {
            return Some("it does not say where its images are; name them with --data".into());
        }
    };
    let cached = cache_folder().is_ok_and(|cache| cache.join(archive).is_file());
    (!cached).then(|| {
        format!(
            "{archive} is not in the cache, and a report downloads nothing; name the images with --data"
        )
    })
}

fn measured(
    data: &Path,
    labels: CifarLabels,
    options: LoadOptions,
    model: &Model,
) -> Result<(ImageDataset, String), ReportError> {
    let (images, from) = DataSource::load_to_measure(data, labels, options)?;
    if !images.is_labelled() {
        return Ok((images.without_labels(), from));
    }
    let names = model.class_names();
    let ids = imagenet_ids(names);
    let of_class = |(class, name): (usize, &String)| -> Vec<String> {
        let id = ids.as_ref().map(|ids| ids[class].to_string());
        id.into_iter().chain([name.clone()]).collect()
    };
    let names: Vec<Vec<String>> = names.iter().enumerate().map(of_class).collect();
    // If the folders' names are not the model's classes, the images have no labels.
    let images = images
        .with_classes(&names)
        .unwrap_or_else(|_| images.without_labels());
    Ok((images, from))
}
