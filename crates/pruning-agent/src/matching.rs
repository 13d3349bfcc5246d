use apt_vit_model::{Keys, Merge, Observation, Sequences};
use rayon::prelude::*;

use crate::merging::merge_pairs;
use crate::similarity::nearest;

/// A patch that may go, and the one that it would go into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The row of the patch that may go.
    pub from: usize,
    /// The row that takes it in.
    pub into: usize,
    /// The cosine of their keys, averaged over the heads.
    pub similarity: f32,
}

/// Bipartite soft matching (Bolya et al., "Token Merging: Your ViT But Faster", 2023, section 3.1): of each
/// image's visible patches every other one, from the second, finds the most similar one among the rest.
///
/// Per slot, in the order of the rows. Needs the keys; without them there are no pairs.
pub fn matched_pairs(observation: &Observation<'_>) -> Vec<Vec<Pair>> {
    match &observation.keys {
        Some(keys) => pairs_of(observation.sequences, keys, |_, _| ()),
        None => vec![Vec::new(); observation.sequences.batch()],
    }
}

/// Who goes into whom: of each slot's pairs the `count` most similar, where `count` is told the slot
/// ([`Sequences::image`] says whose it is). Of equally similar pairs, the first ones merge. `proportion` is
/// [`Merge::proportion`].
pub fn matched_with(
    sequences: &Sequences,
    keys: &Keys,
    proportion: f32,
    count: impl Fn(usize) -> usize + Sync,
) -> Merge {
    let pairs = pairs_of(sequences, keys, |slot, pairs| {
        keep_closest(pairs, count(slot));
    });
    let pairs = pairs.iter().flatten();
    merge_pairs(
        sequences,
        pairs.map(|pair| (pair.from, pair.into)),
        proportion,
    )
}

/// Leaves the `count` most similar pairs, in any order.
pub(crate) fn keep_closest(pairs: &mut Vec<Pair>, count: usize) {
    if count < pairs.len() {
        pairs.select_nth_unstable_by(count, |a, b| {
            let closer = b.similarity.total_cmp(&a.similarity);
            closer.then(a.from.cmp(&b.from))
        });
        pairs.truncate(count);
    }
}

/// As [`matched_pairs`]; `choose` sees each slot and its pairs, and may take some away.
fn pairs_of(
    sequences: &Sequences,
    keys: &Keys,
    choose: impl Fn(usize, &mut Vec<Pair>) + Sync,
) -> Vec<Vec<Pair>> {
    let starts = sequences.starts();
    let spans: Vec<&[usize]> = starts.windows(2).collect();
    let prefix = sequences.prefix();
    let of_span = |(slot, span): (usize, &[usize])| {
        let own = (span[0]..span[1]).filter(|&row| sequences.visible()[row]);
        // The places of CLS and of what else stands before the patches are kept, so that who seeks
        // and who is found alternates as in the authors' code.
        let numbered: Vec<(usize, usize)> = own.enumerate().skip(prefix).collect();
        let every_other = |odd: usize| {
            let rows = numbered.iter().filter(move |(place, _)| place % 2 == odd);
            rows.map(|&(_, row)| row)
        };
        let found: Vec<usize> = every_other(1).collect();
        let seekers: Vec<usize> = every_other(0).collect();
        let nearest = nearest(keys, &seekers, &found);
        let pairs = seekers.iter().zip(nearest).filter_map(|(&from, nearest)| {
            nearest.map(|(similarity, into)| Pair {
                from,
                into,
                similarity,
            })
        });
        let mut pairs = pairs.collect();
        choose(slot, &mut pairs);
        pairs
    };
    spans.into_par_iter().enumerate().map(of_span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::prelude::*;

    #[test]
    fn each_image_merges_as_many_of_its_closest_pairs_as_it_is_told() {
        // CLS, then patches 1 to 6: seekers stand at 2, 4, 6; 1, 3, 5 are looked at.
        let image = [
            [0.0, 0.0],
            [1.0, 0.0],
            [0.9, 0.1],
            [0.0, 1.0],
            [0.5, 0.5],
            [-1.0, 0.0],
            [0.05, 1.0],
        ];
        let flat = image.concat().repeat(3);
        let keys = Tensor::<1>::from_data(flat.as_slice(), &Device::default());
        let keys = Keys::new(keys.reshape([21, 2]));
        let sequences = Sequences::full(3, 7);
        let counts = [1, 0, 9];
        let merge = matched_with(&sequences, &keys, 1.0, |slot| counts[sequences.image(slot)]);
        let of_image = |image: usize| {
            let into = merge.into[7 * image..7 * (image + 1)].iter();
            into.map(|row| row - 7 * image).collect::<Vec<_>>()
        };
        // 6 goes into 3 before 2 goes into 1, and 4 into 1 last.
        assert_eq!(of_image(0), [0, 1, 2, 3, 4, 5, 3]);
        assert_eq!(of_image(1), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(of_image(2), [0, 1, 1, 3, 1, 5, 3]);
        assert_eq!(merge.weights[8..14], [1.0; 6]);
    }
}
