//! What a memory says of itself, and whether a model fits it.

use apt_data::RgbImage;
use apt_inference::{Model, NotFinite};
use apt_pruning_agent::Selection;
use serde::{Deserialize, Serialize};

use crate::search::cosine;
use crate::{Judge, MemoryError, Whitening};

/// The version of memories that this program writes and reads.
const FORMAT: u64 = 1;

/// What one model makes of one picture in two precisions has this cosine at least.
const LEAST_COSINE: f32 = 0.95;

/// What a memory says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The version of its form.
    pub format: u64,
    /// What the model makes of a generated picture, unpruned: so a memory knows its model again.
    pub probe: Vec<f32>,
    /// What is compared of features.
    pub whitening: Whitening,
    /// Who decides how far the memory is believed.
    pub judge: Judge,
}

impl About {
    /// Of a memory of this model.
    ///
    /// # Errors
    ///
    /// Where the model's features are no numbers.
    pub fn new(model: &Model, whitening: Whitening, judge: Judge) -> Result<Self, MemoryError> {
        Ok(Self {
            format: FORMAT,
            probe: probe(model)?,
            whitening,
            judge,
        })
    }

    /// Reads the JSON.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("is damaged: {error}"))?;
        let format = value["format"].as_u64().unwrap_or(0);
        if format != FORMAT {
            return Err(format!(
                "has format {format}, and this program reads format {FORMAT}: build it again"
            ));
        }
        let about: Self =
            serde_json::from_value(value).map_err(|error| format!("is damaged: {error}"))?;
        let (found, expected) = (about.whitening.width(), about.width());
        if found != expected {
            return Err(format!(
                "is damaged: whitens {found} features, expected {expected}"
            ));
        }
        match about.judge.fault().or(about.whitening.fault()) {
            Some(fault) => Err(format!("is damaged: {fault}")),
            None => Ok(about),
        }
    }

    /// Values of an entry's features.
    pub fn width(&self) -> usize {
        self.probe.len()
    }

    /// Checks that the memory was built with this model, in whatever precision and with whatever policy.
    ///
    /// # Errors
    ///
    /// Where it was not.
    pub fn check(&self, model: &Model) -> Result<(), MemoryError> {
        let own = probe(model)?;
        if own.len() != self.width() {
            return Err(MemoryError::OtherModel {
                found: format!("its entries have {} features", self.width()),
                expected: own.len().to_string(),
            });
        }
        let cosine = cosine(&own, &self.probe);
        if cosine < LEAST_COSINE {
            return Err(MemoryError::OtherModel {
                found: format!(
                    "both see a generated picture differently, with a cosine of {cosine:.3}"
                ),
                expected: format!("{LEAST_COSINE} or more"),
            });
        }
        Ok(())
    }
}

/// The unpruned model's features of a generated picture.
fn probe(model: &Model) -> Result<Vec<f32>, MemoryError> {
    const SIDE: u32 = 64;
    let pixel = |place: u32| {
        let (x, y) = (place % SIDE, place / SIDE);
        [x * 4, y * 4, (x ^ y) * 4].map(|value| value as u8)
    };
    let picture = RgbImage {
        width: SIDE,
        height: SIDE,
        pixels: (0..SIDE * SIDE).flat_map(pixel).collect(),
    };
    let output = model.forward_with(model.preprocess(&[picture]), &Selection::All);
    let features: Vec<f32> = output.features.into_data().iter::<f32>().collect();
    NotFinite::check("features", &features).map_err(|reason| MemoryError::Image {
        source_name: "a generated picture".into(),
        reason: reason.to_string(),
    })?;
    Ok(features)
}
