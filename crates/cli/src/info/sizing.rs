//! How a model gets its pictures, in words.

use apt_data::{EvalTransform, Normalization};

use crate::table::percent;

/// How a model gets its pictures.
pub fn sizing(normalization: Normalization, transform: EvalTransform) -> String {
    let part = match transform.crop {
        Some(share) => format!("the centre, {}", percent(f64::from(share))),
        None => "whole".to_string(),
    };
    let how = if transform.bicubic {
        "bicubic"
    } else {
        "bilinear"
    };
    let three = |values: [f32; 3]| values.map(|value| value.to_string()).join(", ");
    let Normalization { mean, std } = normalization;
    format!(
        "{part}, {how}; minus {}, divided by {}",
        three(mean),
        three(std)
    )
}
