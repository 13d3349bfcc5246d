use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;

use crate::host::{upload, upload_places};
use crate::kernels::{self, RowSums, filled_rows};
use crate::parked::{Parked, Recalled};
use crate::precision::cast;
use crate::selected_rows::{own_rows, select_rows};
use crate::sequences::Sequences;
use crate::{Exit, Merge};

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
    /// Tokens that no block computes any more, and that CLS still reads.
    pub(crate) parked: Option<Parked>,
    /// What is known of images that were answered on the way.
    pub(crate) answered: Vec<Answered>,
}

/// Images that were answered in one block.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    /// Their places in the batch.
    images: Vec<usize>,
    /// What the heads see of them, `[images, hidden]` each.
    tokens: Vec<Tensor<2>>,
}

impl Answered {
    /// What the heads see of these images of a batch, `[images, hidden]` each.
    pub fn by(images: Vec<usize>, tokens: Vec<Tensor<2>>) -> Self {
        Self { images, tokens }
    }

    /// Their places in the batch.
    pub fn images(&self) -> &[usize] {
        &self.images
    }

    /// What an exit says of images of `batch` that are not answered already, whose heads see `count` tokens.
    pub fn new(exit: Exit, batch: &TokenBatch, count: usize) -> Self {
        let sequences = &batch.sequences;
        // In mask mode others may be seen again.
        let slots = exit.slots.iter().enumerate();
        let open: Vec<(usize, usize, usize)> = slots
            .filter_map(|(row, &slot)| Some((row, slot, sequences.open_image(slot)?)))
            .collect();
        let images = open.iter().map(|&(_, _, image)| image).collect();
        if open.is_empty() {
            let tokens = Vec::new();
            return Self { images, tokens };
        }
        let tokens = (0..count).map(|place| {
            let rows = open.iter();
            let rows: Vec<usize> = rows
                .map(|&(_, slot, _)| sequences.starts()[slot] + place)
                .collect();
            let tokens = select_rows(batch.tokens.clone(), &rows);
            match exit.shifts.get(place) {
                Some(shift) => {
                    let rows: Vec<usize> = open.iter().map(|&(row, _, _)| row).collect();
                    let shift = select_rows(shift.clone(), &rows);
                    tokens.clone() + cast(shift, tokens.dtype())
                }
                None => tokens,
            }
        });
        Self {
            tokens: tokens.collect(),
            images,
        }
    }
}

impl TokenBatch {
    /// The rows of `sequences`, `[rows, hidden]`.
    pub fn packed(tokens: Tensor<2>, sequences: Sequences) -> Self {
        Self {
            tokens,
            sequences,
            key_mask: None,
            parked: None,
            answered: Vec::new(),
        }
    }

    /// A batch in which no token is removed yet; `tokens` is `[batch, tokens, hidden]`.
    pub fn full(tokens: Tensor<3>) -> Self {
        let [batch, count, hidden] = tokens.dims();
        Self {
            tokens: tokens.reshape([batch * count, hidden]),
            sequences: Sequences::full(batch, count),
            key_mask: None,
            parked: None,
            answered: Vec::new(),
        }
    }

    /// The tokens that are somebody's, `[rows, hidden]`.
    pub fn own_tokens(&self) -> Tensor<2> {
        own_rows(self.tokens.clone(), &self.sequences)
    }

    /// The tokens, with `shift` (`[rows, hidden]`) added to them.
    pub(crate) fn shift(self, shift: Tensor<2>) -> Self {
        let ([filled, hidden], [rows, _]) = (self.tokens.dims(), shift.dims());
        let shift = if filled > rows {
            let rest = Tensor::zeros([filled - rows, hidden], &shift.device());
            Tensor::cat(vec![shift, rest], 0)
        } else {
            shift
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
            ..self
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
            ..self
        }
    }

    /// Tokens that were parked are computed again; `hidden`: their rows are still there, and nobody attends to them.
    pub(crate) fn take_back(mut self, recalled: Recalled, hidden: bool) -> Self {
        let [filled, _] = self.tokens.dims();
        let (sequences, rows) = if hidden {
            self.sequences.show(&recalled.places, filled)
        } else {
            self.sequences.insert(&recalled.places, filled)
        };
        self.sequences = sequences.with_sizes(&rows, filled, &recalled.sizes);
        let tokens = cast(recalled.tokens, self.tokens.dtype());
        let [count, _] = tokens.dims();
        let all = Tensor::cat(vec![self.tokens, tokens], 0);
        self.tokens = sum_rows(all, RowSums::selected(filled + count, &rows));
        self.key_mask = self.key_mask.map(|mask| {
            let [known] = mask.dims();
            let ones = Tensor::ones([filled + count - known], &mask.device());
            select_rows(Tensor::cat(vec![mask, ones], 0), &rows)
        });
        self
    }

    /// The CLS tokens, `[batch, hidden]`, in the order of the images.
    pub fn cls(&self) -> Tensor<2> {
        self.first_tokens(1).remove(0)
    }

    /// These images are answered; `drops`: their rows leave the matrix.
    pub(crate) fn answer(mut self, answered: Answered, drops: bool) -> Self {
        if answered.images.is_empty() {
            return self;
        }
        self.sequences = self.sequences.answer(&answered.images);
        self.answered.push(answered);
        if !drops {
            return self;
        }
        let (sequences, rows) = self.sequences.without_answered();
        // Of no rows nothing is computed: the matrix may stay what it is.
        if !rows.is_empty() {
            let [filled, _] = self.tokens.dims();
            self.tokens = sum_rows(self.tokens, RowSums::selected(filled, &rows));
            self.key_mask = self.key_mask.map(|mask| select_rows(mask, &rows));
        }
        Self { sequences, ..self }
    }

    /// The first `count` tokens of each image, `[batch, hidden]` each, in the order of the images; of images that were answered
    /// on the way, what they were answered by.
    pub(crate) fn first_tokens(&self, count: usize) -> Vec<Tensor<2>> {
        let starts = self.sequences.starts();
        let open: Vec<(usize, usize)> = self.sequences.open_slots().collect();
        let rows: Vec<usize> = open.iter().map(|&(slot, _)| starts[slot]).collect();
        // Where each image stands among the open ones and then the answered ones.
        let answered = self.answered.iter().flat_map(|answered| &answered.images);
        let mut places = vec![0; self.sequences.num_images()];
        let images = open.iter().map(|(_, image)| image).chain(answered);
        images
            .enumerate()
            .for_each(|(place, &image)| places[image] = place);
        let of = |place: usize| {
            if self.answered.is_empty() {
                let rows: Vec<usize> = places.iter().map(|&open| rows[open] + place).collect();
                return select_rows(self.tokens.clone(), &rows);
            }
            let rows: Vec<usize> = rows.iter().map(|row| row + place).collect();
            let open = (!rows.is_empty()).then(|| select_rows(self.tokens.clone(), &rows));
            let answered = self.answered.iter();
            let answered = answered.map(|answered| answered.tokens[place].clone());
            let parts: Vec<Tensor<2>> = open.into_iter().chain(answered).collect();
            select_rows(Tensor::cat(parts, 0), &places)
        };
        (0..count).map(of).collect()
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
            proportion: Some(1.0),
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
