use burn::prelude::*;

use crate::host::read_flags;

/// Which token positions of each image of a batch are still there. What a device decided by itself stays there until
/// it is [read](Self::read).
#[derive(Clone, Debug)]
pub struct Kept(Place);

#[derive(Clone, Debug)]
enum Place {
    /// Per image, per position.
    Host(Vec<Vec<bool>>),
    /// What each reduction so far kept of the tokens that it saw, `[batch, tokens]`.
    Device {
        batch: usize,
        positions: usize,
        reductions: Vec<Tensor<2, Bool>>,
    },
}

impl Kept {
    /// After these reductions, each `[batch, tokens]` of what the one before left of so many positions.
    pub(crate) fn on_device(
        batch: usize,
        positions: usize,
        reductions: Vec<Tensor<2, Bool>>,
    ) -> Self {
        Self(Place::Device {
            batch,
            positions,
            reductions,
        })
    }

    /// Per image and token position: is it still there? Waits for the device where that decided.
    pub fn read(&self) -> Vec<Vec<bool>> {
        match &self.0 {
            Place::Host(kept) => kept.clone(),
            Place::Device {
                batch,
                positions,
                reductions,
            } => replay(*batch, *positions, reductions),
        }
    }

    /// Takes in what is known of the images after these.
    pub(crate) fn extend(&mut self, others: Self) {
        let mut kept = self.read();
        kept.extend(others.read());
        *self = kept.into();
    }
}

impl Default for Kept {
    /// Of no image.
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<Vec<bool>>> for Kept {
    fn from(kept: Vec<Vec<bool>>) -> Self {
        Self(Place::Host(kept))
    }
}

/// Each reduction speaks of the positions that the ones before left, in their order.
fn replay(batch: usize, positions: usize, reductions: &[Tensor<2, Bool>]) -> Vec<Vec<bool>> {
    let mut left: Vec<Vec<usize>> = vec![(0..positions).collect(); batch];
    for reduction in reductions {
        let [_, tokens] = reduction.dims();
        let values = read_flags(reduction.clone());
        for (left, keep) in left.iter_mut().zip(values.chunks_exact(tokens)) {
            let mut keep = keep.iter();
            left.retain(|_| keep.next() == Some(&true));
        }
    }
    let flags = left.iter().map(|left| {
        let mut flags = vec![false; positions];
        left.iter().for_each(|&position| flags[position] = true);
        flags
    });
    flags.collect()
}
