use std::sync::Arc;

use burn::prelude::*;

use crate::kernels::Spans;

/// Which tokens each image of a batch still has, and where they stand in the packed matrix.
///
/// Rows are grouped by image; images stand in order of their token count, so that images of
/// equal length are neighbours and their attention runs as one batch. [`Sequences::image`] says
/// which image stands in which slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// Per slot: the image's index in the batch.
    images: Vec<usize>,
    /// Per slot: the positions of its rows; 0 is CLS and always first, patch p is p + prefix.
    positions: Vec<Vec<usize>>,
    /// Per row: may other tokens attend to it? All true unless tokens were masked.
    visible: Vec<bool>,
    tokens_per_image: usize,
    /// Tokens before the patches.
    prefix: usize,
}

impl Sequences {
    /// `batch` images that each have every one of `tokens` tokens (CLS counted).
    pub fn full(batch: usize, tokens: usize) -> Self {
        Self {
            images: (0..batch).collect(),
            positions: vec![(0..tokens).collect(); batch],
            visible: vec![true; batch * tokens],
            tokens_per_image: tokens,
            prefix: 1,
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
        self.visible.len()
    }

    /// Tokens that an image had before any was removed (CLS counted).
    pub fn tokens_per_image(&self) -> usize {
        self.tokens_per_image
    }

    /// The image (its index in the batch) whose rows stand in `slot`.
    pub fn image(&self, slot: usize) -> usize {
        self.images[slot]
    }

    /// The token positions in `slot`, in the order of its rows; CLS (0) first.
    pub fn positions(&self, slot: usize) -> &[usize] {
        &self.positions[slot]
    }

    /// Per row: is it still attended to? False for tokens that mask mode keeps in place.
    pub fn visible(&self) -> &[bool] {
        &self.visible
    }

    /// Does mask mode hide any row?
    pub fn any_hidden(&self) -> bool {
        self.visible.iter().any(|visible| !visible)
    }

    /// The first row of each slot, and the number of rows as the last entry.
    pub fn starts(&self) -> Vec<usize> {
        let mut starts = vec![0];
        for positions in &self.positions {
            starts.push(starts[starts.len() - 1] + positions.len());
        }
        starts
    }

    /// What attention has to know of it.
    pub(crate) fn spans(&self) -> Arc<Spans> {
        Arc::new(Spans {
            starts: self.starts(),
            visible: self.any_hidden().then(|| self.visible.clone()),
        })
    }

    /// Row ranges of equal-length neighbours: `(first row, images, tokens of each)`.
    pub fn groups(&self) -> Vec<(usize, usize, usize)> {
        let mut groups: Vec<(usize, usize, usize)> = Vec::new();
        let mut row = 0;
        for positions in &self.positions {
            match groups.last_mut() {
                Some((_, images, tokens)) if *tokens == positions.len() => *images += 1,
                _ => groups.push((row, 1, positions.len())),
            }
            row += positions.len();
        }
        groups
    }

    /// Tokens that each image still has (CLS counted), by image.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.batch()];
        let starts = self.starts();
        for (slot, &image) in self.images.iter().enumerate() {
            let rows = &self.visible[starts[slot]..starts[slot + 1]];
            counts[image] = rows.iter().filter(|visible| **visible).count();
        }
        counts
    }

    /// Per image, per token position: is the token still there?
    pub fn kept(&self) -> Vec<Vec<bool>> {
        let mut kept = vec![vec![false; self.tokens_per_image]; self.batch()];
        let mut row = 0;
        for (slot, positions) in self.positions.iter().enumerate() {
            for &position in positions {
                kept[self.images[slot]][position] = self.visible[row];
                row += 1;
            }
        }
        kept
    }

    /// The rows of the images' CLS tokens, by image.
    pub fn cls_rows(&self) -> Vec<usize> {
        let starts = self.starts();
        let mut rows = vec![0; self.batch()];
        for (slot, &image) in self.images.iter().enumerate() {
            rows[image] = starts[slot];
        }
        rows
    }

    /// Per row: the row of its image's CLS token.
    pub fn cls_row_of_each_row(&self) -> Vec<usize> {
        let starts = self.starts();
        let rows = self.positions.iter().zip(starts);
        rows.flat_map(|(positions, start)| std::iter::repeat_n(start, positions.len()))
            .collect()
    }

    /// `keep`, with what must always hold: what stands before the patches stays, and what was
    /// removed stays away.
    fn legal(&self, keep: &[bool]) -> Vec<bool> {
        assert_eq!(keep.len(), self.num_rows(), "one decision a row");
        let positions = self.positions.iter().flatten();
        let rows = keep.iter().zip(&self.visible).zip(positions);
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

    /// The kept rows alone, and for each of them the row it was.
    fn drop_rows(&self, keep: &[bool]) -> (Self, Vec<usize>) {
        let keep = self.legal(keep);
        let starts = self.starts();
        let kept_rows: Vec<Vec<usize>> = (0..self.batch())
            .map(|slot| {
                (starts[slot]..starts[slot + 1])
                    .filter(|&row| keep[row])
                    .collect()
            })
            .collect();
        let mut slots: Vec<usize> = (0..self.batch()).collect();
        // A stable sort by length: long images first, and the order is the same every time.
        slots.sort_by_key(|&slot| std::cmp::Reverse(kept_rows[slot].len()));
        let positions = slots.iter().map(|&slot| {
            let rows = kept_rows[slot].iter();
            rows.map(|&row| self.positions[slot][row - starts[slot]])
                .collect::<Vec<_>>()
        });
        let sequences = Self {
            images: slots.iter().map(|&slot| self.images[slot]).collect(),
            positions: positions.collect(),
            visible: vec![true; kept_rows.iter().map(Vec::len).sum()],
            tokens_per_image: self.tokens_per_image,
            prefix: self.prefix,
        };
        (
            sequences,
            slots
                .iter()
                .flat_map(|&slot| kept_rows[slot].iter().copied())
                .collect(),
        )
    }
}

/// The tokens of a batch of images between two blocks: one packed matrix, and whose rows they are.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// The tokens, `[rows, hidden]`.
    pub tokens: Tensor<2>,
    /// Whose they are.
    pub sequences: Sequences,
}

impl TokenBatch {
    /// A batch in which no token is removed yet; `tokens` is `[batch, tokens, hidden]`.
    pub fn full(tokens: Tensor<3>) -> Self {
        let [batch, count, hidden] = tokens.dims();
        Self {
            tokens: tokens.reshape([batch * count, hidden]),
            sequences: Sequences::full(batch, count),
        }
    }

    /// Removed tokens stay in the matrix, but no query attends to them any more. CLS stays
    /// visible and what was hidden stays hidden, whatever `keep` says.
    ///
    /// `keep` has one entry a row.
    pub fn hide(self, keep: &[bool]) -> Self {
        Self {
            sequences: self.sequences.hide(keep),
            tokens: self.tokens,
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
        Self {
            tokens: select_rows(self.tokens, &rows),
            sequences,
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

/// The given rows of a matrix, in the given order.
pub(crate) fn select_rows(matrix: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let device = matrix.device();
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    matrix.select(0, Tensor::<1, Int>::from_data(rows.as_slice(), &device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
