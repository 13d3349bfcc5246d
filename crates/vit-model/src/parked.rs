//! Tokens that no block computes any more, and that the CLS token still reads.

use std::ops::Range;
use std::sync::Arc;

use burn::prelude::*;

use crate::Sequences;
use crate::selected_rows::select_rows;

/// How parked tokens go on, given by whoever parks them.
#[derive(Clone, Debug)]
pub struct Park {
    /// One entry a row: is it parked if it goes? Others that go are gone.
    pub rows: Vec<bool>,
    /// One entry for each token that is parked already, in their order: does it come back into play? None do where this is empty.
    pub recall: Vec<bool>,
    /// One for each block of the model.
    pub readings: Arc<[Reading]>,
}

/// What a block is to parked tokens. They are not computed, but tokens change from block to block, and a later one knows them
/// only as it knows its own: so they drift as tokens do in the mean.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What is added to the CLS token's attention scores for them, `[heads]`; a gradient reaches it.
    pub bias: Tensor<1>,
    /// What they become where others go through the attention, and where others go through the MLP.
    pub drifts: [Drift; 2],
}

/// Each channel of a token, times a number and plus another.
#[derive(Clone, Debug)]
pub struct Drift {
    /// `[hidden]`
    pub scale: Tensor<1>,
    /// `[hidden]`
    pub shift: Tensor<1>,
}

/// The parked tokens of a batch.
#[derive(Clone, Debug)]
pub struct Parked {
    /// `[parked, hidden]`, as later blocks would know them.
    pub tokens: Tensor<2>,
    /// Per token: how much its image's CLS token attended to it in this block, averaged over heads.
    pub attention: Vec<f32>,
    pub(crate) readings: Arc<[Reading]>,
    /// Per image of the batch: its first token; and the number of tokens as the last entry.
    starts: Vec<usize>,
    positions: Vec<usize>,
    sizes: Vec<f32>,
}

/// Tokens that come back, and where they belong.
pub(crate) struct Recalled {
    /// `[recalled, hidden]`
    pub tokens: Tensor<2>,
    /// Per token: its image's place in the batch, and its position in the image.
    pub places: Vec<(usize, usize)>,
    /// Per token: how many patches it stands for.
    pub sizes: Vec<f32>,
}

impl Parked {
    /// The first token of the image in each slot of `sequences`, and one past its last: a range for each slot.
    pub fn ranges(&self, sequences: &Sequences) -> Vec<Range<usize>> {
        let slots = 0..sequences.batch();
        slots
            .map(|slot| self.range(sequences.place(slot)))
            .collect()
    }

    /// The tokens of an image, by its place in the batch.
    pub(crate) fn range(&self, image: usize) -> Range<usize> {
        self.starts[image]..self.starts[image + 1]
    }

    /// Per token: how many patches it stands for.
    pub(crate) fn sizes(&self) -> &[f32] {
        &self.sizes
    }

    /// The position of each token in its image.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Tokens of each image of the batch.
    pub fn counts(&self) -> Vec<usize> {
        self.starts
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .collect()
    }

    /// Those of the images in these slots of `sequences`, as a batch of their own, and for each token which it was.
    pub fn of_slots(&self, sequences: &Sequences, slots: &[usize]) -> (Self, Vec<usize>) {
        let images = slots.iter().map(|&slot| self.range(sequences.place(slot)));
        let of_image: Vec<Vec<usize>> = images.map(Iterator::collect).collect();
        (self.selected(&of_image), of_image.concat())
    }

    /// These tokens of each image.
    fn selected(&self, of_image: &[Vec<usize>]) -> Self {
        let rows = of_image.concat();
        Self {
            tokens: select_rows(self.tokens.clone(), &rows),
            attention: rows.iter().map(|&row| self.attention[row]).collect(),
            readings: self.readings.clone(),
            starts: starts(of_image),
            positions: rows.iter().map(|&row| self.positions[row]).collect(),
            sizes: rows.iter().map(|&row| self.sizes[row]).collect(),
        }
    }

    /// Those that stay parked, and those that come back.
    pub(crate) fn recall(self, recall: &[bool]) -> (Option<Self>, Option<Recalled>) {
        if !recall.contains(&true) {
            return (Some(self), None);
        }
        let images = self.starts.len() - 1;
        let of = |wanted: bool| -> Vec<Vec<usize>> {
            let of_image = |image| {
                let tokens = self.range(image);
                tokens.filter(|&token| recall[token] == wanted).collect()
            };
            (0..images).map(of_image).collect()
        };
        let (back, rest) = (of(true), of(false));
        let places = back.iter().enumerate();
        let places = places.flat_map(|(image, tokens)| tokens.iter().map(move |&t| (image, t)));
        let places: Vec<(usize, usize)> = places
            .map(|(image, token)| (image, self.positions[token]))
            .collect();
        let rows = back.concat();
        let recalled = Recalled {
            tokens: select_rows(self.tokens.clone(), &rows),
            sizes: rows.iter().map(|&row| self.sizes[row]).collect(),
            places,
        };
        let stays = rest.iter().any(|tokens| !tokens.is_empty());
        (stays.then(|| self.selected(&rest)), Some(recalled))
    }

    /// These, and the rows of a batch that `goes` says.
    pub(crate) fn join(
        before: Option<Self>,
        tokens: &Tensor<2>,
        sequences: &Sequences,
        goes: &[bool],
        readings: &Arc<[Reading]>,
    ) -> Option<Self> {
        if !goes.contains(&true) {
            return before;
        }
        let old = before.as_ref().map_or(0, |parked| parked.positions.len());
        let mut of_image: Vec<Vec<usize>> = vec![Vec::new(); sequences.num_images()];
        if let Some(parked) = &before {
            let images = of_image.iter_mut().enumerate();
            images.for_each(|(image, tokens)| tokens.extend(parked.range(image)));
        }
        let mut rows = Vec::new();
        for (slot, image) in sequences.open_slots() {
            let starts = sequences.starts();
            let gone = (starts[slot]..starts[slot + 1]).filter(|&row| goes[row]);
            for row in gone {
                of_image[image].push(old + rows.len());
                rows.push(row);
            }
        }
        let new = select_rows(tokens.clone(), &rows);
        let size = |&row: &usize| sequences.sizes().map_or(1.0, |sizes| sizes[row]);
        let mut all = Self {
            tokens: new,
            attention: vec![0.0; rows.len()],
            readings: readings.clone(),
            starts: Vec::new(),
            positions: rows.iter().map(|&row| sequences.position(row)).collect(),
            sizes: rows.iter().map(size).collect(),
        };
        if let Some(parked) = before {
            all.tokens = Tensor::cat(vec![parked.tokens, all.tokens], 0);
            all.attention = [parked.attention, all.attention].concat();
            all.positions = [parked.positions, all.positions].concat();
            all.sizes = [parked.sizes, all.sizes].concat();
        }
        Some(all.selected(&of_image))
    }

    /// As they are after a half of block `layer`: 0 the attention, 1 the MLP.
    pub(crate) fn drift(mut self, layer: usize, half: usize) -> Self {
        if let Some(reading) = self.readings.get(layer) {
            let drift = &reading.drifts[half];
            let [scale, shift] = [&drift.scale, &drift.shift];
            self.tokens = self.tokens * scale.clone().unsqueeze() + shift.clone().unsqueeze();
        }
        self
    }
}

fn starts(of_image: &[Vec<usize>]) -> Vec<usize> {
    let mut starts = vec![0];
    let mut end = 0;
    for tokens in of_image {
        end += tokens.len();
        starts.push(end);
    }
    starts
}
