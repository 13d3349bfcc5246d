//! Images that cannot be read: they stop the loading, or are left out and told.

use crate::dataset::StoredImage;
use crate::{DataError, Progress};
use serde::{Deserialize, Serialize};

/// So many bad images are named; the others are counted.
const NAMED: usize = 5;

/// What happens where images cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBad {
    /// They are an error. Headers are checked when the images are loaded, the rest when an image is used.
    #[default]
    Fail,
    /// They are left out, with a warning. Every image is decoded once when the images are loaded.
    Skip,
}

/// How images are loaded. A [`Progress`] alone is enough where bad images are an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Whether long work reports its progress.
    pub progress: Progress,
    /// What happens where images cannot be read.
    pub on_bad: OnBad,
}

impl From<Progress> for LoadOptions {
    fn from(progress: Progress) -> Self {
        Self {
            progress,
            on_bad: OnBad::Fail,
        }
    }
}

/// An image that was left out because it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadImage {
    /// Where it comes from, as [`ImageDataset::name`](crate::ImageDataset::name) says it.
    pub name: String,
    /// What is wrong with it; names the file.
    pub reason: String,
}

/// One image as it was read, or its name and why it could not be.
pub(crate) type ReadImage = Result<StoredImage, Box<(String, DataError)>>;

/// The good images and the bad ones, which are an error unless they are to be left out.
pub(crate) fn sorted_out(
    read: Vec<ReadImage>,
    on_bad: OnBad,
) -> Result<(Vec<StoredImage>, Vec<BadImage>), DataError> {
    let total = read.len();
    let mut good = Vec::with_capacity(total);
    let mut bad = Vec::new();
    for image in read {
        match image {
            Ok(image) => good.push(image),
            Err(image) => bad.push(*image),
        }
    }
    if on_bad == OnBad::Fail && bad.len() == 1 {
        return bad
            .pop()
            .map_or(Ok((good, Vec::new())), |image| Err(image.1));
    }
    let bad: Vec<BadImage> = bad
        .into_iter()
        .map(|image| BadImage {
            reason: image.1.to_string(),
            name: image.0,
        })
        .collect();
    if bad.is_empty() {
        return Ok((good, bad));
    }
    let first = first(&bad);
    if on_bad == OnBad::Fail {
        return Err(DataError::BadImages {
            count: bad.len(),
            total,
            first,
        });
    }
    if good.is_empty() {
        return Err(DataError::OnlyBadImages { total, first });
    }
    tracing::warn!(
        "left out {} of {total} images, which cannot be read:\n  {first}",
        bad.len()
    );
    Ok((good, bad))
}

/// The first few, one a line.
fn first(bad: &[BadImage]) -> String {
    let mut lines: Vec<String> = bad
        .iter()
        .take(NAMED)
        .map(|bad| bad.reason.clone())
        .collect();
    if bad.len() > NAMED {
        lines.push(format!("and {} more", bad.len() - NAMED));
    }
    lines.join("\n  ")
}
