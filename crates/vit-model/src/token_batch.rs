use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;

use crate::host::{upload, upload_places};
use crate::kernels::{self, RowSums, Spans, filled_rows};
use crate::precision::cast;

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
    tokens_per_image: usize,
    /// Tokens before the patches.
    prefix: usize,
    /// Where the batch is part of another: which image of that one is the first of this one.
    first_image: usize,
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
            tokens_per_image: tokens,
            prefix: 1,
            first_image: 0,
        }
    }

    /// The same images, as those of a larger batch from its image `first_image` on.
    pub(crate) fn with_first_image(self, first_image: usize) -> Self {
        Self {
            first_image,
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

    /// Images in the batch.
    pub fn batch(&self) -> usize {
        self.images.len()
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
        self.first_image + self.images[slot]
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

    /// Per row, what is added to its attention scores: minus infinity where it is hidden, and the
    /// logarithm of its size ("proportional attention"; Bolya et al., "Token Merging", 2023,
    /// section 3). None where all are 0.
    pub(crate) fn bias(&self) -> Option<Vec<f32>> {
        if self.sizes.is_none() && !self.any_hidden() {
            return None;
        }
        let rows = self.visible.iter().enumerate();
        let bias = rows.map(|(row, visible)| match visible {
            false => f32::NEG_INFINITY,
            true => self.log_size(row),
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

    /// Tokens that each image still has (CLS counted), by image.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.batch()];
        for (slot, &image) in self.images.iter().enumerate() {
            let rows = &self.visible[self.rows(slot)];
            counts[image] = rows.iter().filter(|visible| **visible).count();
        }
        counts
    }

    /// Per image, per token position: is the token still there?
    pub fn kept(&self) -> Vec<Vec<bool>> {
        let mut kept = vec![vec![false; self.tokens_per_image]; self.batch()];
        for (slot, &image) in self.images.iter().enumerate() {
            for row in self.rows(slot) {
                kept[image][self.positions[row]] = self.visible[row];
            }
        }
        kept
    }

    /// The rows of the images' CLS tokens, by image.
    pub fn cls_rows(&self) -> Vec<usize> {
        let mut rows = vec![0; self.batch()];
        for (&image, &start) in self.images.iter().zip(&self.starts) {
            rows[image] = start;
        }
        rows
    }

    /// Per row: the row of its image's CLS token.
    pub fn cls_row_of_each_row(&self) -> Vec<usize> {
        let spans = self.starts.windows(2);
        spans
            .flat_map(|span| std::iter::repeat_n(span[0], span[1] - span[0]))
            .collect()
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
    fn hide(&self, keep: &[bool]) -> Self {
        Self {
            visible: self.legal(keep),
            ..self.clone()
        }
    }

    /// The same rows, those that others go into counting for as many patches more.
    fn merged(self, merge: &Merge) -> Self {
        if !merge.sizes {
            return self;
        }
        let before = self.sizes.unwrap_or_else(|| vec![1.0; merge.into.len()]);
        let mut sizes = before.clone();
        for (row, &into) in merge.into.iter().enumerate() {
            if into != row {
                sizes[into] += before[row];
            }
        }
        Self {
            sizes: Some(sizes),
            ..self
        }
    }

    /// The kept rows alone, and for each of them the row it was.
    fn drop_rows(&self, keep: &[bool]) -> (Self, Vec<usize>) {
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
        let sizes = self.sizes.as_ref();
        let sequences = Self {
            images: slots.iter().map(|&slot| self.images[slot]).collect(),
            starts,
            positions: rows.iter().map(|&row| self.positions[row]).collect(),
            visible: vec![true; rows.len()],
            sizes: sizes.map(|sizes| rows.iter().map(|&row| sizes[row]).collect()),
            tokens_per_image: self.tokens_per_image,
            prefix: self.prefix,
            first_image: self.first_image,
        };
        (sequences, rows)
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

/// Which tokens take in which others.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// Per row: the row that it goes into; its own where it does not. A row that others go into goes
    /// nowhere.
    pub into: Vec<usize>,
    /// Per row: what it weighs in the sum. 1 for a row that nothing happens to.
    pub weights: Vec<f32>,
    /// Does a token from now on count for as many patches as went into it?
    pub sizes: bool,
}

/// The tokens of a batch of images between two blocks: one packed matrix, and whose rows they are.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// The tokens, `[rows, hidden]`. On backends that compile kernels for shapes, rows that are nobody's may
    /// follow once some have been dropped.
    pub tokens: Tensor<2>,
    /// Whose they are.
    pub sequences: Sequences,
    /// What each row weighs as a key, `[rows]`: attention weights are multiplied by it before they
    /// are brought to a sum of 1. From 0 (nobody attends to it) to 1; CLS has 1. None is 1 for all. A
    /// gradient may flow through it.
    pub key_mask: Option<Tensor<1>>,
}

impl TokenBatch {
    /// The rows of `sequences`, `[rows, hidden]`.
    pub fn packed(tokens: Tensor<2>, sequences: Sequences) -> Self {
        Self {
            tokens,
            sequences,
            key_mask: None,
        }
    }

    /// A batch in which no token is removed yet; `tokens` is `[batch, tokens, hidden]`.
    pub fn full(tokens: Tensor<3>) -> Self {
        let [batch, count, hidden] = tokens.dims();
        Self {
            tokens: tokens.reshape([batch * count, hidden]),
            sequences: Sequences::full(batch, count),
            key_mask: None,
        }
    }

    /// The tokens that are somebody's, `[rows, hidden]`.
    pub fn own_tokens(&self) -> Tensor<2> {
        own_rows(self.tokens.clone(), &self.sequences)
    }

    /// The tokens, with `shift` (`[rows, hidden]`) added to them.
    pub(crate) fn shift(self, shift: Tensor<2>) -> Self {
        let ([filled, hidden], [rows, _]) = (self.tokens.dims(), shift.dims());
        let shift = match filled > rows {
            true => {
                let rest = Tensor::zeros([filled - rows, hidden], &shift.device());
                Tensor::cat(vec![shift, rest], 0)
            }
            false => shift,
        };
        Self {
            tokens: self.tokens + shift,
            ..self
        }
    }

    /// Each row weighs as a key what it weighed, times `mask` (`[rows]`).
    pub fn weigh_keys(mut self, mask: Tensor<1>) -> Self {
        let [rows] = mask.dims();
        assert_eq!(rows, self.sequences.num_rows(), "one weight a row");
        self.key_mask = Some(match self.key_mask {
            Some(before) => before * mask,
            None => mask,
        });
        self
    }

    /// Tokens take others in: each row that is merged into becomes the weighted sum of itself and of
    /// the rows that go into it. The rows that went are still there, to be hidden or dropped.
    pub fn merge(mut self, merge: &Merge) -> Self {
        let rows = self.sequences.num_rows();
        assert_eq!(merge.into.len(), rows, "one target a row");
        let merged: Vec<usize> = (0..rows).filter(|&row| merge.into[row] != row).collect();
        self.sequences = self.sequences.merged(merge);
        let device = self.tokens.device();
        let [filled, _] = self.tokens.dims();
        let mut weights = merge.weights.clone();
        weights.resize(filled, 1.0);
        let weights = upload(weights, [filled], &device);
        let weights = cast(weights, self.tokens.dtype());
        let weighted = self.tokens.clone() * weights.unsqueeze_dim(1);
        if merged.is_empty() {
            self.tokens = weighted;
            return self;
        }
        let targets = upload_places(merged.iter().map(|&row| merge.into[row]), &device);
        let values = select_rows(weighted.clone(), &merged);
        self.tokens = weighted.select_assign(0, targets, values, IndexingUpdateOp::Add);
        self
    }

    /// As [`merge`](Self::merge) and then [`drop_rows`](Self::drop_rows), in one go.
    pub fn merge_and_drop(self, merge: &Merge, keep: &[bool]) -> Self {
        assert_eq!(merge.into.len(), keep.len(), "one target a row");
        let (sequences, rows) = self.sequences.merged(merge).drop_rows(keep);
        let [filled, _] = self.tokens.dims();
        Self {
            tokens: sum_rows(self.tokens, RowSums::merged(filled, merge, &rows)),
            sequences,
            key_mask: self.key_mask.map(|mask| select_rows(mask, &rows)),
        }
    }

    /// Removed tokens stay in the matrix, but no query attends to them any more. CLS stays
    /// visible and what was hidden stays hidden, whatever `keep` says.
    ///
    /// `keep` has one entry a row.
    pub fn hide(self, keep: &[bool]) -> Self {
        Self {
            sequences: self.sequences.hide(keep),
            ..self
        }
    }

    /// Removed tokens leave the matrix. CLS always stays.
    ///
    /// `keep` has one entry a row.
    pub fn drop_rows(self, keep: &[bool]) -> Self {
        let (sequences, rows) = self.sequences.drop_rows(keep);
        if sequences == self.sequences {
            return self;
        }
        let [filled, _] = self.tokens.dims();
        Self {
            tokens: sum_rows(self.tokens, RowSums::selected(filled, &rows)),
            sequences,
            key_mask: self.key_mask.map(|mask| select_rows(mask, &rows)),
        }
    }

    /// The CLS tokens, `[batch, hidden]`, in the order of the images.
    pub fn cls(&self) -> Tensor<2> {
        select_rows(self.tokens.clone(), &self.sequences.cls_rows())
    }

    /// The tokens right after CLS, `[batch, hidden]`, in the order of the images.
    pub(crate) fn after_cls(&self) -> Tensor<2> {
        let mut rows = self.sequences.cls_rows();
        rows.iter_mut().for_each(|row| *row += 1);
        select_rows(self.tokens.clone(), &rows)
    }
}

/// The sums, and after them as many rows that are nobody's as the device wants.
fn sum_rows(tokens: Tensor<2>, mut sums: RowSums) -> Tensor<2> {
    let filled = filled_rows(sums.results(), &tokens.device());
    // They are copies of the first.
    for _ in sums.results()..filled {
        sums.terms.push((0, 1.0));
        sums.starts.push(sums.terms.len());
    }
    kernels::sum_rows(tokens, Arc::new(sums))
}

/// The rows of a matrix that are somebody's.
pub(crate) fn own_rows(matrix: Tensor<2>, sequences: &Sequences) -> Tensor<2> {
    match matrix.dims()[0] > sequences.num_rows() {
        true => matrix.narrow(0, 0, sequences.num_rows()),
        false => matrix,
    }
}

/// The given rows of a matrix (or values of a vector), in the given order.
pub(crate) fn select_rows<const D: usize>(matrix: Tensor<D>, rows: &[usize]) -> Tensor<D> {
    let device = matrix.device();
    matrix.select(0, upload_places(rows.iter().copied(), &device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn merged_tokens_are_weighted_sums_and_count_for_all_of_them() {
        let device = Device::default();
        // Two images of CLS and three patches, each token being its row's number.
        let rows: Vec<f32> = (0..8).map(|row| row as f32).collect();
        let tokens = Tensor::<1>::from_data(rows.as_slice(), &device).reshape([2, 4, 1]);
        let merge = Merge {
            into: vec![0, 1, 1, 1, 4, 5, 6, 5],
            weights: vec![1.0, 0.5, 0.25, 0.25, 1.0, 0.5, 1.0, 0.5],
            sizes: true,
        };
        let whole = TokenBatch::full(tokens);
        let keep = [true, true, false, false, true, true, true, false];
        let batch = whole.clone().merge(&merge).drop_rows(&keep);
        let at_once = whole.merge_and_drop(&merge, &keep);
        assert_eq!(at_once.sequences, batch.sequences);
        assert_eq!(at_once.tokens.into_data(), batch.tokens.to_data());
        // The second image has more tokens, and stands first now.
        let values: Vec<f32> = batch.tokens.into_data().iter::<f32>().collect();
        assert_eq!(values, [4.0, 6.0, 6.0, 0.0, 1.75]);
        assert_eq!(batch.sequences.sizes().unwrap(), [1.0, 2.0, 1.0, 1.0, 3.0]);
        let bias = batch.sequences.bias().unwrap();
        assert_eq!(bias[0], 0.0);
        assert!((bias[4] - 3f32.ln()).abs() < 1e-6);
    }

    fn decisions() -> impl Strategy<Value = (usize, usize, Vec<Vec<bool>>)> {
        (1usize..5, 2usize..9).prop_flat_map(|(batch, tokens)| {
            let step = proptest::collection::vec(any::<bool>(), batch * tokens);
            (
                Just(batch),
                Just(tokens),
                proptest::collection::vec(step, 1..4),
            )
        })
    }

    proptest! {
        #[test]
        fn cls_survives_and_removed_tokens_stay_away((batch, tokens, steps) in decisions()) {
            let mut hidden = Sequences::full(batch, tokens);
            let mut packed = hidden.clone();
            let mut alive = vec![vec![true; tokens]; batch];
            for step in steps {
                for (image, alive) in alive.iter_mut().enumerate() {
                    for (position, alive) in alive.iter_mut().enumerate() {
                        *alive &= position == 0 || step[image * tokens + position];
                    }
                }
                hidden = hidden.hide(&step);
                let mut keep = Vec::new();
                for slot in 0..batch {
                    for &position in packed.positions(slot) {
                        keep.push(step[packed.image(slot) * tokens + position]);
                    }
                }
                packed = packed.drop_rows(&keep).0;
                prop_assert_eq!(&hidden.kept(), &alive);
                prop_assert_eq!(&packed.kept(), &alive);
                prop_assert_eq!(hidden.counts(), packed.counts());
                prop_assert!(packed.counts().iter().all(|&count| count >= 1));
                let rows: usize = packed.groups().iter().map(|(_, images, len)| images * len).sum();
                prop_assert_eq!(rows, packed.num_rows());
            }
        }
    }
}
