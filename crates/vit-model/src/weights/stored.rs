//! How the weights of products lie in a file: in the precision that they are computed in, so that a model that is loaded
//! again answers the same and its file is half or a quarter as large.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};

use crate::{Precision, VitError};

/// Behind the name of a weight of integers: the tensor of what each of its rows is multiplied by, `[outputs]`.
pub(super) const SCALE: &str = "_scale";

/// Tensors by name: shape and values.
pub type NamedTensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Writes tensors as safetensors of 32-bit floats, whole or not at all.
///
/// # Errors
///
/// Where the file cannot be written.
pub fn write_safetensors(path: &Path, tensors: &NamedTensors) -> Result<(), VitError> {
    write(path, tensors, |_| Precision::F32)
}

/// The same, each tensor in a precision of its own.
///
/// # Errors
///
/// Where the file cannot be written.
pub(super) fn write(
    path: &Path,
    tensors: &NamedTensors,
    precision: impl Fn(&str) -> Precision,
) -> Result<(), VitError> {
    let failed = |reason: String| VitError::Write {
        path: path.to_path_buf(),
        reason,
    };
    let mut files: Vec<(String, Vec<usize>, Dtype, Vec<u8>)> = Vec::new();
    for (name, (shape, values)) in tensors {
        let rows = shape.first().copied().unwrap_or(1);
        let stored = Stored::new(values, rows, precision(name));
        if let Some(scales) = stored.scales {
            let scales = Stored::new(&scales, rows, Precision::F32);
            files.push((
                format!("{name}{SCALE}"),
                vec![rows],
                scales.dtype,
                scales.bytes,
            ));
        }
        files.push((name.clone(), shape.clone(), stored.dtype, stored.bytes));
    }
    let views = files.iter().map(|(name, shape, dtype, bytes)| {
        let view = TensorView::new(*dtype, shape.to_vec(), bytes);
        view.map(|view| (name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, _>>();
    let views = views.map_err(|error| failed(error.to_string()))?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let partial = path.with_extension("partial");
    let bytes =
        safetensors::serialize(views, Some(metadata)).map_err(|error| failed(error.to_string()))?;
    std::fs::write(&partial, bytes).map_err(|error| failed(error.to_string()))?;
    std::fs::rename(&partial, path).map_err(|error| failed(error.to_string()))
}

/// A tensor's bytes, their type, and what the rows of integers are multiplied by.
struct Stored {
    dtype: Dtype,
    bytes: Vec<u8>,
    scales: Option<Vec<f32>>,
}

impl Stored {
    /// `values` has so many rows.
    fn new(values: &[f32], rows: usize, precision: Precision) -> Self {
        let floats = |dtype, bytes| Self {
            dtype,
            bytes,
            scales: None,
        };
        match precision {
            Precision::F32 => {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes());
                floats(Dtype::F32, bytes.collect())
            }
            Precision::Bf16 => {
                let short = values.iter().map(|&value| bf16::from_f32(value));
                floats(Dtype::BF16, short.flat_map(bf16::to_le_bytes).collect())
            }
            Precision::F16 => {
                let short = values.iter().map(|&value| f16::from_f32(value));
                floats(Dtype::F16, short.flat_map(f16::to_le_bytes).collect())
            }
            Precision::Int8 => integers(values, rows),
        }
    }
}

/// From -127 to 127, the largest of each row one of them, as the kernels quantise.
fn integers(values: &[f32], rows: usize) -> Stored {
    let mut bytes = Vec::with_capacity(values.len());
    let mut scales = Vec::with_capacity(rows);
    for row in values.chunks_exact((values.len() / rows.max(1)).max(1)) {
        let largest = row
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        let scale = largest / 127.0;
        bytes.extend(row.iter().map(|value| {
            let step = if scale > 0.0 { value / scale } else { 0.0 };
            step.round_ties_even().clamp(-127.0, 127.0) as i8 as u8
        }));
        scales.push(scale);
    }
    Stored {
        dtype: Dtype::I8,
        bytes,
        scales: Some(scales),
    }
}

/// The values of integers again.
///
/// # Errors
///
/// Says what is wrong where there is not one scale for each row.
pub(super) fn from_integers(
    bytes: &[u8],
    shape: &[usize],
    scales: &[f32],
) -> Result<Vec<f32>, String> {
    let rows = shape.first().copied().unwrap_or(0);
    if rows == 0 || scales.len() != rows {
        return Err(format!(
            "{} scales of integers, expected one for each of {rows} rows",
            scales.len()
        ));
    }
    let rows = bytes.chunks_exact((bytes.len() / rows).max(1)).zip(scales);
    let values =
        rows.flat_map(|(row, scale)| row.iter().map(move |&step| f32::from(step as i8) * scale));
    Ok(values.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_that_were_read_are_written_again_as_they_were() {
        let values: Vec<f32> = (0..192).map(|i| (i as f32 * 0.71).sin() * 0.3).collect();
        let first = Stored::new(&values, 6, Precision::Int8);
        let scales = first.scales.unwrap();
        let read = from_integers(&first.bytes, &[6, 32], &scales).unwrap();
        for (row, (values, read)) in values.chunks(32).zip(read.chunks(32)).enumerate() {
            for (value, read) in values.iter().zip(read) {
                assert!((value - read).abs() <= 0.501 * scales[row]);
            }
        }
        let second = Stored::new(&read, 6, Precision::Int8);
        assert_eq!(second.bytes, first.bytes);
        assert!(from_integers(&first.bytes, &[6, 32], &scales[1..]).is_err());
    }
}
