//! From folders to a page, and to a file.

use std::path::{Path, PathBuf};

use apt_inference::write_whole;
use burn::tensor::Device;

use crate::ReportError;
use crate::folder::{Folder, Kind};
use crate::page::page;
use crate::passes::{PassSettings, pass};
use crate::subject::Subject;

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
