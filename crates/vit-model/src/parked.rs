//! Tokens that no block computes any more, and that the CLS token still reads.

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

/// The parked tokens of a batch, in the order in which they were parked.
#[derive(Clone, Debug)]
pub struct Parked {
    /// Per token: how much its image's CLS token attended to it in this block, averaged over heads.
    pub attention: Vec<f32>,
    pub(crate) readings: Arc<[Reading]>,
    /// `[tokens, hidden]` of those that were parked together, as they were then. They are not written again: what became of
    /// them since is applied where they are read.
    groups: Vec<Tensor<2>>,
    /// What each group is multiplied by since, `[groups, hidden]`.
    scale: Tensor<2>,
    /// And what is added then, `[groups, hidden]`.
    shift: Tensor<2>,
    /// Per image of the batch: its tokens.
    of_image: Vec<Vec<usize>>,
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
    /// `[parked, hidden]`, as later blocks would know them.
    pub fn tokens(&self) -> Tensor<2> {
        let groups = self.groups.iter().enumerate();
        let group_of = groups.flat_map(|(group, tokens)| vec![group; tokens.dims()[0]]);
        let group_of: Vec<usize> = group_of.collect();
        let [scale, shift] = [&self.scale, &self.shift];
        let [scale, shift] = [scale, shift].map(|drift| select_rows(drift.clone(), &group_of));
        Tensor::cat(self.groups.clone(), 0) * scale + shift
    }

    /// The tokens of the image in each slot of `sequences`.
    pub fn of_each_slot<'a>(
        &'a self,
        sequences: &'a Sequences,
    ) -> impl Iterator<Item = &'a [usize]> {
        let slots = 0..sequences.batch();
        slots.map(|slot| self.of_image(sequences.place(slot)))
    }

    /// The tokens of an image, by its place in the batch.
    pub(crate) fn of_image(&self, image: usize) -> &[usize] {
        &self.of_image[image]
    }

    /// [`tokens`](Self::tokens) as they are kept: those that were parked together, `[tokens, hidden]`; what each group is
    /// multiplied by, and what is added then, `[groups, hidden]`.
    pub(crate) fn groups(&self) -> (&[Tensor<2>], [&Tensor<2>; 2]) {
        (&self.groups, [&self.scale, &self.shift])
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
        self.of_image.iter().map(Vec::len).collect()
    }

    /// Those of the images in these slots of `sequences`, as a batch of their own, and for each token which it was.
    pub fn of_slots(&self, sequences: &Sequences, slots: &[usize]) -> (Self, Vec<usize>) {
        let images = slots
            .iter()
            .map(|&slot| self.of_image(sequences.place(slot)));
        let of_image: Vec<&[usize]> = images.collect();
        (self.selected(&of_image), of_image.concat())
    }

    /// These tokens of each image, one image's after the other's.
    fn selected<T: AsRef<[usize]>>(&self, of_image: &[T]) -> Self {
        let mut rows = Vec::new();
        let places = of_image.iter().map(|tokens| {
            let first = rows.len();
            rows.extend_from_slice(tokens.as_ref());
            (first..rows.len()).collect()
        });
        let of_image = places.collect();
        let tokens = select_rows(self.tokens(), &rows);
        let [scale, shift] = no_drift(&tokens);
        Self {
            groups: vec![tokens],
            scale,
            shift,
            attention: rows.iter().map(|&row| self.attention[row]).collect(),
            readings: self.readings.clone(),
            of_image,
            positions: rows.iter().map(|&row| self.positions[row]).collect(),
            sizes: rows.iter().map(|&row| self.sizes[row]).collect(),
        }
    }

    /// Those that stay parked, and those that come back.
    pub(crate) fn recall(self, recall: &[bool]) -> (Option<Self>, Option<Recalled>) {
        if !recall.contains(&true) {
            return (Some(self), None);
        }
        let of = |wanted: bool| -> Vec<Vec<usize>> {
            let of_image = |tokens: &Vec<usize>| {
                let tokens = tokens.iter().copied();
                tokens.filter(|&token| recall[token] == wanted).collect()
            };
            self.of_image.iter().map(of_image).collect()
        };
        let (back, rest) = (of(true), of(false));
        let places = back.iter().enumerate();
        let places = places.flat_map(|(image, tokens)| tokens.iter().map(move |&t| (image, t)));
        let places: Vec<(usize, usize)> = places
            .map(|(image, token)| (image, self.positions[token]))
            .collect();
        let rows = back.concat();
        let recalled = Recalled {
            tokens: select_rows(self.tokens(), &rows),
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
        let mut of_image = vec![Vec::new(); sequences.num_images()];
        let mut rows = Vec::new();
        for (slot, image) in sequences.open_slots() {
            let starts = sequences.starts();
            for row in (starts[slot]..starts[slot + 1]).filter(|&row| goes[row]) {
                of_image[image].push(old + rows.len());
                rows.push(row);
            }
        }
        let group = select_rows(tokens.clone(), &rows);
        let [scale, shift] = no_drift(&group);
        let size = |&row: &usize| sequences.sizes().map_or(1.0, |sizes| sizes[row]);
        let new = Self {
            attention: vec![0.0; rows.len()],
            readings: readings.clone(),
            groups: vec![group],
            scale,
            shift,
            of_image,
            positions: rows.iter().map(|&row| sequences.position(row)).collect(),
            sizes: rows.iter().map(size).collect(),
        };
        Some(match before {
            Some(before) => before.and(new),
            None => new,
        })
    }

    /// These, and then the tokens of `new`, for the same images.
    fn and(mut self, new: Self) -> Self {
        self.attention.extend(new.attention);
        self.positions.extend(new.positions);
        self.sizes.extend(new.sizes);
        self.groups.extend(new.groups);
        for (tokens, new) in self.of_image.iter_mut().zip(new.of_image) {
            tokens.extend(new);
        }
        Self {
            readings: new.readings,
            scale: Tensor::cat(vec![self.scale, new.scale], 0),
            shift: Tensor::cat(vec![self.shift, new.shift], 0),
            ..self
        }
    }

    /// As they are after a half of block `layer`: 0 the attention, 1 the MLP.
    pub(crate) fn drift(mut self, layer: usize, half: usize) -> Self {
        if let Some(reading) = self.readings.get(layer) {
            let drift = &reading.drifts[half];
            let [scale, shift] = [&drift.scale, &drift.shift].map(|part| part.clone().unsqueeze());
            self.scale = self.scale * scale.clone();
            self.shift = self.shift * scale + shift;
        }
        self
    }
}

/// What leaves a group of tokens as they are: what they are multiplied by, and what is added, `[1, hidden]`.
fn no_drift(tokens: &Tensor<2>) -> [Tensor<2>; 2] {
    let ([_, hidden], device) = (tokens.dims(), tokens.device());
    [
        Tensor::ones([1, hidden], &device),
        Tensor::zeros([1, hidden], &device),
    ]
}
