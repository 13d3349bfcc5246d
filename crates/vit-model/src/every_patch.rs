//! An answer for every patch, also for those that no block computes any more: for uses such as segmentation.

use burn::prelude::*;

use crate::Encoded;
use crate::precision::widen;
use crate::selected_rows::select_rows;

/// What is known at the end of every patch of a batch.
#[derive(Clone, Debug)]
pub struct EveryPatch {
    /// `[batch, patches, hidden]`, before the model's last norm. A patch that is parked has what it was parked as, drifted,
    /// also where it merged; one that merged alone, the token that it went into; one that was removed, zeros.
    pub tokens: Tensor<3>,
    /// Per image and patch: is anything known of it?
    pub known: Vec<Vec<bool>>,
}

impl Encoded {
    /// What is known of every patch after the last of the blocks that ran.
    pub fn every_patch(&self) -> EveryPatch {
        let (batch, sequences) = (&self.batch, &self.batch.sequences);
        let own = widen(batch.own_tokens());
        let [rows, hidden] = own.dims();
        let (images, prefix) = (sequences.num_images(), sequences.prefix());
        // Per image and position: the row that says what is known.
        let mut row_of = vec![vec![None; sequences.tokens_per_image()]; images];
        for (slot, image) in sequences.open_slots() {
            let first = sequences.starts()[slot];
            for (place, &position) in sequences.positions(slot).iter().enumerate() {
                if sequences.visible()[first + place] {
                    row_of[image][position] = Some(first + place);
                }
            }
        }
        let mut all = vec![own];
        if let Some(parked) = &batch.parked {
            for (image, known) in row_of.iter_mut().enumerate() {
                for &token in parked.of_image(image) {
                    known[parked.positions()[token]] = Some(rows + token);
                }
            }
            all.push(parked.tokens());
        }
        // What went into another is known where that one is, and that one may have gone on.
        for entry in self.trace.iter().rev() {
            for (known, merged) in row_of.iter_mut().zip(entry.kept.merged()) {
                for &(from, into) in merged {
                    known[from] = known[from].or(known[into]);
                }
            }
        }
        let nothing: usize = all.iter().map(|tokens| tokens.dims()[0]).sum();
        all.push(Tensor::zeros([1, hidden], &all[0].device()));
        let patches = row_of.iter().map(|known| &known[prefix..]);
        let places: Vec<usize> = patches
            .clone()
            .flatten()
            .map(|row| row.unwrap_or(nothing))
            .collect();
        let tokens = select_rows(Tensor::cat(all, 0), &places);
        let count = sequences.tokens_per_image() - prefix;
        EveryPatch {
            tokens: tokens.reshape([images, count, hidden]),
            known: patches
                .map(|known| known.iter().map(Option::is_some).collect())
                .collect(),
        }
    }
}
