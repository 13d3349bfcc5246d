//! Weights and what is computed with them have to be numbers: one NaN makes every answer NaN.

use std::path::Path;

use burn::tensor::DType;
use burn_store::burn_pack::{Reader, Tensor};

/// What a model computed for an image is NaN or infinite.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "the model's {what} for it are {found}, expected finite numbers: its weights are damaged, or too large for the \
     precision; compute in 32-bit floats (--dtype f32), or take other weights"
)]
pub struct NotFinite {
    /// What was computed.
    pub what: &'static str,
    /// The first value that is no finite number.
    pub found: f32,
}

impl NotFinite {
    /// Are all of an image's values finite?
    ///
    /// # Errors
    ///
    /// Where one is not.
    pub fn check(what: &'static str, values: &[f32]) -> Result<(), Self> {
        let found = values.iter().copied().find(|value| !value.is_finite());
        found.map_or(Ok(()), |found| Err(Self { what, found }))
    }
}

/// Are all floats of a model's record finite?
///
/// # Errors
///
/// Names the tensor, or says why the record cannot be read.
pub(crate) fn check_finite(path: &Path) -> Result<(), String> {
    let tensors = Reader::from_file(path).and_then(Reader::into_tensors);
    all_finite(&tensors.map_err(|error| error.to_string())?)
}

/// Are all floats of these tensors finite?
///
/// # Errors
///
/// Names the first tensor in which one is not.
pub(crate) fn all_finite<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<(), String> {
    for tensor in tensors {
        let name = &tensor.name;
        let bytes = tensor.to_bytes();
        let bytes = bytes.map_err(|error| format!("tensor '{name}': {error}"))?;
        if let Some(element) = not_finite(&bytes, tensor.dtype) {
            return Err(format!(
                "tensor '{name}' is NaN or infinite at element {element}; expected finite numbers"
            ));
        }
    }
    Ok(())
}

/// The first element that is no finite number, where elements are floats.
fn not_finite(bytes: &[u8], dtype: DType) -> Option<usize> {
    // NaN and infinity have all bits of their exponent set.
    let half = |exponent: u16| {
        let mut values = bytes.as_chunks::<2>().0.iter();
        values.position(|&value| u16::from_le_bytes(value) & exponent == exponent)
    };
    match dtype {
        DType::F64 => {
            let mut values = bytes.as_chunks::<8>().0.iter();
            values.position(|&value| !f64::from_le_bytes(value).is_finite())
        }
        DType::F32 => {
            let mut values = bytes.as_chunks::<4>().0.iter();
            values.position(|&value| !f32::from_le_bytes(value).is_finite())
        }
        DType::F16 => half(0x7c00),
        DType::BF16 => half(0x7f80),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_that_are_no_numbers_are_refused_with_what_to_do() {
        NotFinite::check("logits", &[1.0, -3e38]).unwrap();
        for (found, word) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
            let error = NotFinite::check("logits", &[1.0, found]).unwrap_err();
            let error = error.to_string();
            for word in [word, "logits", "damaged", "--dtype f32"] {
                assert!(error.contains(word), "{word}: {error}");
            }
        }
    }

    #[test]
    fn the_first_element_that_is_no_number_is_found_in_every_float() {
        let single: Vec<u8> = [1.0, f32::MAX, f32::INFINITY]
            .iter()
            .flat_map(|value: &f32| value.to_le_bytes())
            .collect();
        assert_eq!(not_finite(&single, DType::F32), Some(2));
        assert_eq!(not_finite(&single[..8], DType::F32), None);
        let double = f64::NAN.to_le_bytes();
        assert_eq!(not_finite(&double, DType::F64), Some(0));
        // The greatest number, then infinity.
        assert_eq!(not_finite(&[0xff, 0x7b, 0x00, 0xfc], DType::F16), Some(1));
        assert_eq!(not_finite(&[0x7f, 0x7f, 0x80, 0x7f], DType::BF16), Some(1));
        assert_eq!(not_finite(&[0xff; 8], DType::I64), None);
    }
}
