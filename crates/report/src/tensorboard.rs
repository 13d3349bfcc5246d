//! Pictures of kept patches for TensorBoard.

use apt_rl_trainer::{LoggedPicture, log_pictures};

use crate::ReportError;
use crate::folder::Folder;
use crate::passes::Passes;
use crate::picture::png;

/// Images that TensorBoard shows.
const IMAGES: usize = 8;

/// Adds pictures of some test images to what TensorBoard shows of a finished run: their kept, merged and removed patches.
///
/// # Errors
///
/// Where an image cannot be drawn, or the run's event file cannot be written.
pub(crate) fn log_kept_patches(run: &Folder, passes: &Passes) -> Result<(), ReportError> {
    let pictures = passes.seen.iter().take(IMAGES).map(|seen| {
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
    let step = run.metrics.last_step().unwrap_or(0.0);
    Ok(log_pictures(&run.path, step as u64, pictures)?)
}
