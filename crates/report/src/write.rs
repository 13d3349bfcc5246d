//! From folders to a page, and to a file.

use std::path::{Path, PathBuf};

use apt_inference::write_whole;
use burn::tensor::Device;

use crate::ReportError;
use crate::folder::{Folder, Kind};
use crate::page::page;
use crate::passes::{PassSettings, pass};
use crate::subject::Subject;
use crate::tensorboard::log_kept_patches;

/// The report of a folder, in that folder.
pub const FILE: &str = "report.html";

/// A page about these folders, as HTML. Any of their files may be missing; the page names those. `progress` gets
/// the number of images that a model has answered, and the number of all.
///
/// # Errors
///
/// Where a path is no folder that this program wrote.
pub fn report(
    folders: &[PathBuf],
    settings: &PassSettings,
    device: &Device,
    progress: &dyn Fn(usize, usize),
) -> Result<String, ReportError> {
    let subject = |path: &PathBuf| {
        let folder = Folder::read(path)?;
        let passes = if settings.images == 0 {
            Err("no images were asked for".to_string())
        } else if folder.kind == Kind::Sweep {
            Err("a sweep has them in the reports of its runs".to_string())
        } else {
            pass(&folder, settings, device, progress).map_err(|error| error.to_string())
        };
        Ok(Subject { folder, passes })
    };
    let subjects = folders.iter().map(subject);
    let subjects: Vec<Subject> = subjects.collect::<Result<_, ReportError>>()?;
    Ok(page(&subjects))
}

/// What the end of a training leaves for people to look at.
#[derive(Debug)]
pub struct AfterTraining {
    /// Were pictures of kept patches added to what TensorBoard shows?
    pub pictures: Result<(), ReportError>,
    /// Was the page written?
    pub page: Result<(), ReportError>,
}

/// After a training: pictures for TensorBoard, and the page, from the same answers of the model. One can fail without the other.
///
/// # Errors
///
/// As [`report`].
pub fn write_after_training(
    run: &Path,
    file: &Path,
    settings: &PassSettings,
    device: &Device,
    progress: &dyn Fn(usize, usize),
) -> Result<AfterTraining, ReportError> {
    let folder = Folder::read(run)?;
    let (pictures, passes) = match pass(&folder, settings, device, progress) {
        Ok(passes) => (log_kept_patches(&folder, &passes), Ok(passes)),
        Err(error) => {
            let reason = error.to_string();
            (Err(error), Err(reason))
        }
    };
    let html = page(&[Subject { folder, passes }]);
    let page = write_whole(file, html.as_bytes()).map_err(ReportError::from);
    Ok(AfterTraining { pictures, page })
}

/// Writes the page to `file`, whole or not at all.
///
/// # Errors
///
/// As [`report`], and where the file cannot be written.
pub fn write(
    folders: &[PathBuf],
    file: &Path,
    settings: &PassSettings,
    device: &Device,
    progress: &dyn Fn(usize, usize),
) -> Result<(), ReportError> {
    let html = report(folders, settings, device, progress)?;
    Ok(write_whole(file, html.as_bytes())?)
}
