//! Who answers: a model, or a model and its memory.

use anyhow::{Context, Result};
use apt_data::RgbImage;
use apt_inference::{Answer, Model, NotFinite};
use apt_memory::{Lookup, Recall, open};

use super::Infer;
use crate::device;
use crate::global::Global;

/// Who answers.
pub enum Answerer {
    /// The model alone.
    Alone(Box<Model>),
    /// The model and its memory.
    WithMemory(Box<Recall>),
}

/// An answer, and what the memory had to do with it.
type Answered = Result<(Answer, Option<Lookup>), NotFinite>;

impl Answerer {
    /// What the command line names.
    pub fn open(args: &Infer, global: &Global) -> Result<Self> {
        let model = args.model.open(global)?;
        let Some(address) = &args.memory else {
            return Ok(Self::Alone(Box::new(model)));
        };
        let store = open(address, &device::open()).context("--memory")?;
        let recall = Recall::new(model, store).context("--memory")?;
        Ok(Self::WithMemory(Box::new(recall)))
    }

    /// The model.
    pub fn model(&self) -> &Model {
        match self {
            Self::Alone(model) => model,
            Self::WithMemory(recall) => recall.model(),
        }
    }

    /// The most probable classes of each image.
    pub fn classify(&self, images: &[RgbImage], top: usize) -> Vec<Answered> {
        match self {
            Self::Alone(model) => {
                let answers = model.classify(images, top).into_iter();
                answers.map(|answer| Ok((answer?, None))).collect()
            }
            Self::WithMemory(recall) => {
                let answers = recall.classify(images, top).into_iter();
                let parts = answers.map(|recalled| {
                    let recalled = recalled?;
                    Ok((recalled.answer, Some(recalled.lookup)))
                });
                parts.collect()
            }
        }
    }
}
