use burn::prelude::*;

use crate::host::read_flags;

/// Which token positions of each image of a batch are still there. What a device decided by itself stays there until
/// it is [read](Self::read).
#[derive(Clone, Debug)]
pub struct Kept {
    place: Place,
    /// Per image: the positions that merged in this block, and the positions that they went into.
    merged: Vec<Vec<(usize, usize)>>,
}

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
        Self {
            place: Place::Device {
                batch,
                positions,
                reductions,
            },
            merged: vec![Vec::new(); batch],
        }
    }

    /// The same, and which positions of each image went into which others.
    pub(crate) fn with_merged(self, merged: Vec<Vec<(usize, usize)>>) -> Self {
        Self { merged, ..self }
    }

    /// Per image: the token positions that merged in this block, each with the position that it went into. Empty
    /// lists where the device decided by itself.
    pub fn merged(&self) -> &[Vec<(usize, usize)>] {
        &self.merged
    }

    /// Per image and token position: is it still there? Waits for the device where that decided.
    pub fn read(&self) -> Vec<Vec<bool>> {
        match &self.place {
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
        self.place = Place::Host(kept);
        self.merged.extend(others.merged);
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
        Self {
            merged: vec![Vec::new(); kept.len()],
            place: Place::Host(kept),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_batch_keep_who_merged_into_whom() {
        let kept = Kept::from(vec![vec![true, true, false]]);
        let mut joined = kept.clone().with_merged(vec![vec![(2, 1)]]);
        joined.extend(kept);
        assert_eq!(joined.merged(), [vec![(2, 1)], vec![]]);
        assert_eq!(joined.read().len(), 2);
    }
}
