//! Pictures of kept patches for TensorBoard.

use std::path::Path;

use apt_rl_trainer::{LoggedPicture, log_pictures};
use burn::tensor::Device;

use crate::ReportError;
use crate::folder::Folder;
use crate::passes::{PassSettings, pass};
use crate::picture::png;

/// Images that TensorBoard shows.
const IMAGES: usize = 8;

/// Adds pictures of some test images to what TensorBoard shows of a finished run: their kept, merged and removed patches.
///
/// # Errors
///
/// Where the run cannot answer, has no images at hand, or its event file cannot be written.
pub fn log_kept_patches(run: &Path, device: &Device) -> Result<(), ReportError> {
    let folder = Folder::read(run)?;
    let settings = PassSettings {
        images: IMAGES,
        time_limit: None,
        data: None,
    };
    let passes = pass(&folder, &settings, device, &|_, _| ())?;
    let pictures = passes.seen.iter().map(|seen| {
        let drawn = passes.drawing(seen)?;
        let (width, height) = drawn.dimensions();
        let class = passes
            .class_names
            .get(seen.label.unwrap_or(seen.dense.class));
        Ok(LoggedPicture {
            tag: format!("{}-{}", seen.index, class.map_or("", String::as_str)),
            png: png(&drawn)?,
            size: [width, height],
        })
    });
    let pictures = pictures.collect::<Result<Vec<_>, ReportError>>()?;
    let step = folder.metrics.last_step().unwrap_or(0.0);
    Ok(log_pictures(run, step as u64, pictures)?)
}
