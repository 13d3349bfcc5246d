use apt_vit_model::{Keys, Observation, Sequences};
use rayon::prelude::*;

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
        Some(keys) => pairs_of(observation.sequences, keys, |_| ()),
        None => vec![Vec::new(); observation.sequences.batch()],
    }
}

/// As [`matched_pairs`]; `choose` sees those of each slot, and may take some away.
pub(crate) fn pairs_of(
    sequences: &Sequences,
    keys: &Keys,
    choose: impl Fn(&mut Vec<Pair>) + Sync,
) -> Vec<Vec<Pair>> {
    let starts = sequences.starts();
    let spans: Vec<&[usize]> = starts.windows(2).collect();
    let prefix = sequences.prefix();
    let of_span = |span: &[usize]| {
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
        choose(&mut pairs);
        pairs
    };
    spans.into_par_iter().map(of_span).collect()
}
