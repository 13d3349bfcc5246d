//! What policies saw and decided.

use std::cell::RefCell;

use apt_vit_model::{Keys, Needs, Observation, Placement, Reduction, Sequences, TokenReducer};
use burn::prelude::*;

/// What a reducer saw in one block, and what it decided.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The block (0-based).
    pub layer: usize,
    /// The tokens, `[rows, hidden]`, without gradient.
    pub hidden: Tensor<2>,
    /// Whose rows they are.
    pub sequences: Sequences,
    /// CLS's attention to each row, where it was asked for.
    pub cls_attention: Option<Vec<f32>>,
    /// The keys, where they were asked for.
    pub keys: Option<Keys>,
    /// Per row: does it stay?
    pub keep: Vec<bool>,
    /// Is so much kept in each image, instead of in the whole batch?
    pub by_image: bool,
    /// The reducer's logits, where it has such.
    pub logits: Option<Tensor<2>>,
}

impl Decision {
    /// What the reducer saw.
    pub fn observation(&self) -> Observation<'_> {
        Observation {
            layer: self.layer,
            hidden: self.hidden.clone(),
            sequences: &self.sequences,
            cls_attention: self.cls_attention.clone(),
            keys: self.keys.clone(),
            parked: None,
            heads: None,
        }
    }

    /// The rows that there is something to decide about: the patches that are still there.
    pub fn patch_rows(&self) -> Vec<usize> {
        let sequences = &self.sequences;
        let starts = sequences.starts();
        let spans = starts.windows(2);
        spans
            .flat_map(|span| span[0] + sequences.prefix()..span[1])
            .filter(|&row| sequences.visible()[row])
            .collect()
    }

    /// The image of each row.
    pub fn image_of_each_row(&self) -> Vec<usize> {
        let starts = self.sequences.starts();
        let slots = 0..self.sequences.batch();
        slots
            .flat_map(|slot| {
                let rows = starts[slot + 1] - starts[slot];
                std::iter::repeat_n(self.sequences.image(slot), rows)
            })
            .collect()
    }
}

/// A reducer whose decisions are remembered, in the order of the blocks.
pub struct Recorder<'a> {
    reducer: Box<dyn TokenReducer + 'a>,
    by_image: bool,
    decisions: RefCell<Vec<Decision>>,
}

impl<'a> Recorder<'a> {
    /// Remembers what `reducer` decides.
    pub fn new(reducer: Box<dyn TokenReducer + 'a>) -> Self {
        // One that decides on whole batches cannot do so image by image.
        let by_image = reducer.by_image().is_some();
        Self {
            reducer,
            by_image,
            decisions: RefCell::default(),
        }
    }

    /// What was decided.
    pub fn into_decisions(self) -> Vec<Decision> {
        self.decisions.into_inner()
    }
}

impl TokenReducer for Recorder<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.reducer.placement(layer)
    }

    fn needs(&self, layer: usize) -> Needs {
        self.reducer.needs(layer)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let reduction = self.reducer.reduce(observation);
        self.decisions.borrow_mut().push(Decision {
            layer: observation.layer,
            hidden: observation.hidden.clone(),
            sequences: observation.sequences.clone(),
            cls_attention: observation.cls_attention.clone(),
            keys: observation.keys.clone(),
            keep: reduction.keep.clone(),
            by_image: self.by_image,
            logits: reduction.logits.clone(),
        });
        reduction
    }
}
