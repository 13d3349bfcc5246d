use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use crate::Merge;
use crate::kernels::Spans;

mod returning;

/// Which tokens each image of a batch still has, and where they stand in the packed matrix.
///
/// Rows are grouped by image; images stand in order of their token count, so that images of
/// equal length are neighbours and their attention runs as one batch. [`Sequences::image`] says
/// which image stands in which slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequences {
    /// Per slot: the image's index in the batch.
    images: Vec<usize>,
    /// Per slot: its first row; and the number of rows as the last entry.
    starts: Vec<usize>,
    /// Per row: its position; 0 is CLS and always first, patch p is p + prefix.
    positions: Vec<usize>,
    /// Per row: may other tokens attend to it? All true unless tokens were masked.
    visible: Vec<bool>,
    /// Per row: how many patches it stands for, where any were merged and that counts.
    sizes: Option<Vec<f32>>,
    /// What the logarithms of sizes are multiplied by before they are added to attention scores.
    proportion: f32,
    tokens_per_image: usize,
    /// Tokens before the patches.
    prefix: usize,
    /// Where the batch is part of another: which image of that one each of its images is.
    numbers: Option<Arc<[usize]>>,
    /// Per image: is it answered already? It has no rows then, or in mask mode rows that nobody needs.
    answered: Vec<bool>,
}

impl Sequences {
    /// `batch` images that each have every one of `tokens` tokens (CLS counted).
    pub fn full(batch: usize, tokens: usize) -> Self {
        Self {
            images: (0..batch).collect(),
            starts: (0..=batch).map(|slot| slot * tokens).collect(),
            positions: (0..batch * tokens).map(|row| row % tokens).collect(),
            visible: vec![true; batch * tokens],
            sizes: None,
            proportion: 1.0,
            tokens_per_image: tokens,
            prefix: 1,
            numbers: None,
            answered: vec![false; batch],
        }
    }

    /// The same images, as those of a larger batch from its image `first_image` on.
    pub(crate) fn with_first_image(self, first_image: usize) -> Self {
        let numbers = (first_image..first_image + self.num_images()).collect();
        Self {
            numbers: Some(numbers),
            ..self
        }
    }

    /// The same with so many tokens before the patches that are never removed; without it, CLS is
    /// the only one.
    pub fn with_prefix(self, prefix: usize) -> Self {
        Self { prefix, ..self }
    }

    /// Tokens before the patches, which are never removed: CLS and maybe others.
    pub fn prefix(&self) -> usize {
        self.prefix
    }

    /// Images in the batch that have rows, one for each slot.
    pub fn batch(&self) -> usize {
        self.images.len()
    }

    /// Images in the batch, those that are answered included.
    pub fn num_images(&self) -> usize {
        self.answered.len()
    }

    /// Rows of the packed matrix.
    pub fn num_rows(&self) -> usize {
        self.positions.len()
    }

    /// Tokens that an image had before any was removed (CLS counted).
    pub fn tokens_per_image(&self) -> usize {
        self.tokens_per_image
    }

    /// The image (its index in the batch that the model was given) whose rows stand in `slot`.
    pub fn image(&self, slot: usize) -> usize {
        let image = self.images[slot];
        self.numbers
            .as_ref()
            .map_or(image, |numbers| numbers[image])
    }

    /// The place in this batch of the image in `slot`, where that is not answered yet.
    pub(crate) fn open_image(&self, slot: usize) -> Option<usize> {
        let image = self.images[slot];
        (!self.answered[image]).then_some(image)
    }

    /// The place of the image in `slot` among the images of this batch.
    pub(crate) fn place(&self, slot: usize) -> usize {
        self.images[slot]
    }

    /// The position of the token in a row.
    pub(crate) fn position(&self, row: usize) -> usize {
        self.positions[row]
    }

    /// The token positions in `slot`, in the order of its rows; CLS (0) first.
    pub fn positions(&self, slot: usize) -> &[usize] {
        &self.positions[self.rows(slot)]
    }

    /// Per row: is it still attended to? False for tokens that mask mode keeps in place.
    pub fn visible(&self) -> &[bool] {
        &self.visible
    }

    /// Does mask mode hide any row?
    pub fn any_hidden(&self) -> bool {
        self.visible.iter().any(|visible| !visible)
    }

    /// Per row: how many patches it stands for, where any were merged and that counts.
    pub fn sizes(&self) -> Option<&[f32]> {
        self.sizes.as_deref()
    }

    /// The logarithm of how many patches a row stands for.
    pub fn log_size(&self, row: usize) -> f32 {
        self.sizes
            .as_ref()
            .map_or(0.0, |sizes| logarithm(sizes[row]))
    }

    /// What is added to the attention scores of a token that stands for so many patches.
    pub(crate) fn bias_of_size(&self, size: f32) -> f32 {
        self.proportion * logarithm(size)
    }

    /// Per row, what is added to its attention scores: minus infinity where it is hidden, and what it counts for more than one
    /// patch (see [`Merge::proportion`]). None where all are 0.
    pub(crate) fn bias(&self) -> Option<Vec<f32>> {
        if self.sizes.is_none() && !self.any_hidden() {
            return None;
        }
        let rows = self.visible.iter().enumerate();
        let bias = rows.map(|(row, visible)| {
            if *visible {
                self.proportion * self.log_size(row)
            } else {
                f32::NEG_INFINITY
            }
        });
        Some(bias.collect())
    }

    /// The first row of each slot, and the number of rows as the last entry.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    fn rows(&self, slot: usize) -> Range<usize> {
        self.starts[slot]..self.starts[slot + 1]
    }

    /// What attention has to know of it.
    pub(crate) fn spans(&self) -> Arc<Spans> {
        Arc::new(Spans {
            starts: self.starts.clone(),
            bias: self.bias(),
        })
    }

    /// Row ranges of equal-length neighbours: `(first row, images, tokens of each)`.
    pub fn groups(&self) -> Vec<(usize, usize, usize)> {
        let mut groups: Vec<(usize, usize, usize)> = Vec::new();
        for span in self.starts.windows(2) {
            let length = span[1] - span[0];
            match groups.last_mut() {
                Some((_, images, tokens)) if *tokens == length => *images += 1,
                _ => groups.push((span[0], 1, length)),
            }
        }
        groups
    }

    /// The slots whose images are not answered yet.
    pub(crate) fn open_slots(&self) -> impl Iterator<Item = (usize, usize)> {
        let slots = self.images.iter().copied().enumerate();
        slots.filter(|&(_, image)| !self.answered[image])
    }

    /// Tokens that each image still has (CLS counted), by image; none where it is answered.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.num_images()];
        for (slot, image) in self.open_slots() {
            let rows = &self.visible[self.rows(slot)];
            counts[image] = rows.iter().filter(|visible| **visible).count();
        }
        counts
    }

    /// Per image, per token position: is the token still there?
    pub fn kept(&self) -> Vec<Vec<bool>> {
        let mut kept = vec![vec![false; self.tokens_per_image]; self.num_images()];
        for (slot, image) in self.open_slots() {
            for row in self.rows(slot) {
                kept[image][self.positions[row]] = self.visible[row];
            }
        }
        kept
    }

    /// Per image: the token positions that `merge` sends into others, and those others.
    pub(crate) fn merged_positions(&self, merge: &Merge) -> Vec<Vec<(usize, usize)>> {
        let mut merged = vec![Vec::new(); self.num_images()];
        for (slot, image) in self.open_slots() {
            let going = self.rows(slot).filter(|&row| merge.into[row] != row);
            let pairs = going.map(|row| (self.positions[row], self.positions[merge.into[row]]));
            merged[image] = pairs.collect();
        }
        merged
    }

    /// These images of the batch are answered; their rows are still there.
    pub(crate) fn answer(mut self, images: &[usize]) -> Self {
        for &image in images {
            self.answered[image] = true;
        }
        self
    }

    /// Without the rows of images that are answered, and for each row that is left the row it was.
    pub(crate) fn without_answered(&self) -> (Self, Vec<usize>) {
        let mut rows = Vec::with_capacity(self.num_rows());
        let (mut images, mut starts) = (Vec::new(), vec![0]);
        for (slot, image) in self.open_slots() {
            rows.extend(self.rows(slot));
            starts.push(rows.len());
            images.push(image);
        }
        (self.of_rows(&rows, images, starts), rows)
    }

    /// Per row: the row of its image's CLS token.
    pub fn cls_row_of_each_row(&self) -> Vec<usize> {
        let spans = self.starts.windows(2);
        spans
            .flat_map(|span| std::iter::repeat_n(span[0], span[1] - span[0]))
            .collect()
    }

    /// Is the token in this row a patch that is not removed yet?
    pub(crate) fn can_go(&self, row: usize) -> bool {
        self.visible[row] && self.positions[row] >= self.prefix
    }

    /// `keep`, with what must always hold: what stands before the patches stays, and what was
    /// removed stays away.
    fn legal(&self, keep: &[bool]) -> Vec<bool> {
        assert_eq!(keep.len(), self.num_rows(), "one decision a row");
        let rows = keep.iter().zip(&self.visible).zip(&self.positions);
        rows.map(|((&keep, &visible), &position)| position < self.prefix || (keep && visible))
            .collect()
    }

    /// The same rows, of which only the kept ones are attended to from now on.
    pub(crate) fn hide(&self, keep: &[bool]) -> Self {
        Self {
            visible: self.legal(keep),
            ..self.clone()
        }
    }

    /// The same rows, those that others go into counting for as many patches more.
    pub(crate) fn merged(self, merge: &Merge) -> Self {
        let Some(proportion) = merge.proportion else {
            return self;
        };
        let before = self.sizes.unwrap_or_else(|| vec![1.0; merge.into.len()]);
        let mut sizes = before.clone();
        for (row, &into) in merge.into.iter().enumerate() {
            if into != row {
                sizes[into] += before[row];
            }
        }
        Self {
            sizes: Some(sizes),
            proportion,
            ..self
        }
    }

    /// The kept rows alone, and for each of them the row it was.
    pub(crate) fn drop_rows(&self, keep: &[bool]) -> (Self, Vec<usize>) {
        let keep = self.legal(keep);
        let left = |slot: usize| keep[self.rows(slot)].iter().filter(|keep| **keep).count();
        let lengths: Vec<usize> = (0..self.batch()).map(left).collect();
        let mut slots: Vec<usize> = (0..self.batch()).collect();
        // A stable sort by length: long images first, and the order is the same every time.
        slots.sort_by_key(|&slot| Reverse(lengths[slot]));
        let mut rows = Vec::with_capacity(lengths.iter().sum());
        let mut starts = vec![0];
        for &slot in &slots {
            rows.extend(self.rows(slot).filter(|&row| keep[row]));
            starts.push(rows.len());
        }
        let images = slots.iter().map(|&slot| self.images[slot]).collect();
        (self.of_rows(&rows, images, starts), rows)
    }

    /// The images in `slots` alone, as a batch of their own, and for each of its rows the row it was. Their
    /// [`image`](Self::image) stays what it was.
    pub fn of_slots(&self, slots: &[usize]) -> (Self, Vec<usize>) {
        let rows: Vec<usize> = slots.iter().flat_map(|&slot| self.rows(slot)).collect();
        let mut starts = vec![0];
        for &slot in slots {
            starts.push(starts[starts.len() - 1] + self.rows(slot).len());
        }
        let sequences = Self {
            numbers: Some(slots.iter().map(|&slot| self.image(slot)).collect()),
            answered: vec![false; slots.len()],
            ..self.of_rows(&rows, (0..slots.len()).collect(), starts)
        };
        (sequences, rows)
    }

    /// Some of the rows, of these images by slot, each with its rows from one start to the next.
    fn of_rows(&self, rows: &[usize], images: Vec<usize>, starts: Vec<usize>) -> Self {
        let sizes = self.sizes.as_ref();
        Self {
            images,
            starts,
            positions: rows.iter().map(|&row| self.positions[row]).collect(),
            visible: rows.iter().map(|&row| self.visible[row]).collect(),
            sizes: sizes.map(|sizes| rows.iter().map(|&row| sizes[row]).collect()),
            proportion: self.proportion,
            tokens_per_image: self.tokens_per_image,
            prefix: self.prefix,
            numbers: self.numbers.clone(),
            answered: self.answered.clone(),
        }
    }
}

/// Sizes are numbers of patches; the logarithms of most are asked for again and again.
fn logarithm(size: f32) -> f32 {
    static OF_NUMBERS: LazyLock<[f32; 64]> =
        LazyLock::new(|| std::array::from_fn(|number| (number as f32).ln()));
    let number = size as usize;
    match OF_NUMBERS.get(number) {
        Some(&logarithm) if number as f32 == size => logarithm,
        _ => size.ln(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_images_are_a_batch_of_their_own_and_keep_their_numbers() {
        // Image 0 loses its patch 1, so that it stands last.
        let keep: Vec<bool> = (0..12).map(|row| row != 1).collect();
        let (sequences, _) = Sequences::full(3, 4).drop_rows(&keep);
        let sequences = sequences.with_first_image(10);
        let (some, rows) = sequences.of_slots(&[1, 2]);
        assert_eq!((some.image(0), some.image(1)), (12, 10));
        assert_eq!(rows, [4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(some.counts(), [4, 3]);
        assert_eq!(some.positions(1), [0, 2, 3]);
    }

    #[test]
    fn merged_positions_are_those_of_the_images_whatever_slots_they_stand_in() {
        // Image 0 loses its patch 1, so that image 1 stands first.
        let keep = [true, false, true, true, true, true, true, true];
        let (sequences, _) = Sequences::full(2, 4).drop_rows(&keep);
        assert_eq!((sequences.image(0), sequences.image(1)), (1, 0));
        let merge = Merge {
            into: vec![0, 1, 1, 1, 4, 6, 6],
            weights: vec![1.0; 7],
            proportion: Some(1.0),
        };
        let merged = sequences.merged_positions(&merge);
        assert_eq!(merged, [vec![(2, 3)], vec![(2, 1), (3, 1)]]);
    }
}
