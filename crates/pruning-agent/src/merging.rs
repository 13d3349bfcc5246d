//! What becomes of patches that merge.

use apt_vit_model::{Keys, Merge, Observation, Sequences};
use rayon::prelude::*;

use crate::similarity::nearest;

/// The blocks in which patches merge, and how many, where `kept` of `patches` are to stay after each of `blocks`. At most half
/// of the patches can merge in one block.
pub(crate) fn merges_in_blocks<'a>(
    blocks: &'a [usize],
    patches: usize,
    kept: &'a [usize],
) -> impl Iterator<Item = (usize, usize)> + 'a {
    let mut before = patches;
    let counts = blocks.iter().zip(kept).map(move |(&block, &kept)| {
        let left = kept.clamp(before - before / 2, before);
        let count = before - left;
        before = left;
        (block, count)
    });
    counts.filter(|&(_, count)| count > 0)
}

/// The given rows go into the given others; those become the mean of both, weighed by how many patches
/// each stands for.
pub(crate) fn merge_pairs(
    sequences: &Sequences,
    pairs: impl Iterator<Item = (usize, usize)>,
    proportion: f32,
) -> Merge {
    let rows = sequences.num_rows();
    let sizes = sequences.sizes();
    let size = |row: usize| sizes.map_or(1.0, |sizes| sizes[row]);
    let mut into: Vec<usize> = (0..rows).collect();
    for (from, to) in pairs {
        into[from] = to;
    }
    let mut sums: Vec<f32> = (0..rows).map(size).collect();
    for row in 0..rows {
        if into[row] != row {
            sums[into[row]] += size(row);
        }
    }
    let weights = (0..rows).map(|row| size(row) / sums[into[row]]).collect();
    Merge {
        into,
        weights,
        proportion: Some(proportion),
    }
}

/// Each removed patch goes into the most similar patch of its image that stays; where none stays, it is lost.
pub(crate) fn merge_into_nearest(sequences: &Sequences, keep: &[bool], keys: &Keys) -> Merge {
    let starts = sequences.starts();
    let spans: Vec<&[usize]> = starts.windows(2).collect();
    let pairs = spans.into_par_iter().map(|span| {
        let first = span[0] + sequences.prefix();
        let visible = (first..span[1]).filter(|&row| sequences.visible()[row]);
        let (kept, removed): (Vec<usize>, Vec<usize>) = visible.partition(|&row| keep[row]);
        let nearest = nearest(keys, &removed, &kept);
        let pairs = removed.into_iter().zip(nearest);
        let pairs = pairs.filter_map(|(row, nearest)| nearest.map(|(_, into)| (row, into)));
        pairs.collect::<Vec<_>>()
    });
    let pairs: Vec<(usize, usize)> = pairs.flatten_iter().collect();
    merge_pairs(sequences, pairs.into_iter(), 1.0)
}

/// Per row, for patches that stay: the most similar other patch that stays, into which it would go if it were removed,
/// too. Needs the keys.
pub fn most_similar_kept(observation: &Observation<'_>, keep: &[bool]) -> Vec<Option<usize>> {
    let sequences = observation.sequences;
    let mut found = vec![None; sequences.num_rows()];
    let Some(keys) = &observation.keys else {
        return found;
    };
    for span in sequences.starts().windows(2) {
        let first = span[0] + sequences.prefix();
        let kept = (first..span[1]).filter(|&row| sequences.visible()[row] && keep[row]);
        let kept: Vec<usize> = kept.collect();
        for (&row, nearest) in kept.iter().zip(nearest(keys, &kept, &kept)) {
            found[row] = nearest.map(|(_, other)| other);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::prelude::*;

    #[test]
    fn removed_patches_go_into_the_most_similar_that_stay() {
        let sequences = Sequences::full(1, 5);
        let vectors = vec![0.0, 0.0, 1.0, 0.0, 0.9, 0.1, 0.0, 1.0, 0.1, 0.8];
        let device = Device::default();
        let vectors = Tensor::<1>::from_data(vectors.as_slice(), &device);
        let keys = Keys::new(vectors.reshape([5, 2]));
        let keep = [true, true, false, true, false];
        let merge = merge_into_nearest(&sequences, &keep, &keys);
        assert_eq!(merge.into, [0, 1, 1, 3, 3]);
        assert_eq!(merge.weights, [1.0, 0.5, 0.5, 0.5, 0.5]);
    }
}
