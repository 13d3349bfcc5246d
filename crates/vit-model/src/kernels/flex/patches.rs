//! Images to tokens, but for the projection of their patches.

use burn::backend::flex::FlexTensor;

use super::buffer::Buffer;
use super::matrix::Matrix;
use super::parallel;

/// Memory accesses cost more than the operations that [`parallel`] counts.
const WORK: usize = 16;

/// The patches of contiguous feature maps, an image at a time.
pub(super) fn cut(features: &FlexTensor, patch: usize) -> FlexTensor {
    let layout = features.layout();
    let shape = layout.shape();
    let (batch, channels, height, width) = (shape[0], shape[1], shape[2], shape[3]);
    let (down, across) = (height / patch, width / patch);
    let size = channels * height * width;
    let values = &features.storage::<f32>()[layout.start_offset()..][..batch * size];
    let mut output = Buffer::new([batch * down * across, channels * patch * patch]);
    let writer = output.writer();
    parallel(batch, WORK * values.len(), |image| {
        // Each line of the image is cut into one of each patch of its row of patches.
        let lines = values[image * size..(image + 1) * size].chunks_exact(width);
        for (line, values) in lines.enumerate() {
            let (channel, y) = (line / height, line % height);
            let first = (image * down + y / patch) * across;
            for (index, values) in values.chunks_exact(patch).enumerate() {
                let start = (first + index) * channels + channel;
                // SAFETY: no other task has this image, and lines do not overlap.
                unsafe { writer.write((start * patch + y % patch) * patch, values) };
            }
        }
    });
    // SAFETY: the lines cover all patches.
    unsafe { output.filled() }
}

/// Tokens from those of patches and the table (both contiguous), an image at a time.
pub(super) fn assemble(patches: Matrix<'_>, table: Matrix<'_>, prefix: usize) -> FlexTensor {
    let hidden = table.columns;
    let size = table.rows * hidden;
    let (front, positions) = table.values[..size].split_at(prefix * hidden);
    let batch = patches.rows / (table.rows - prefix);
    let mut output = Buffer::new([batch * table.rows, hidden]);
    let writer = output.writer();
    parallel(batch, WORK * batch * size, |image| {
        let start = image * positions.len();
        let patches = &patches.values[start..start + positions.len()];
        // SAFETY: no other task has this image.
        let tokens = unsafe {
            writer.write(image * size, front);
            writer.write(image * size + front.len(), patches)
        };
        let tokens = tokens.iter_mut().zip(positions);
        tokens.for_each(|(token, position)| *token += position);
    });
    // SAFETY: the tasks cover all images.
    unsafe { output.filled() }
}
