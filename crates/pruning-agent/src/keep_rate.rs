use apt_vit_model::Sequences;
use serde::{Deserialize, Serialize};

use crate::AgentError;

/// A layer keep rate: of the patches that a block sees, the share that stays, above 0 and at most 1. CLS is not counted and
/// always stays. What is left of all the image's patches after several blocks is the product of their rates.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct KeepRate(f64);

impl KeepRate {
    /// A layer keep rate of `rate`.
    ///
    /// # Errors
    ///
    /// Where `rate` is not above 0 and at most 1.
    pub fn new(rate: f64) -> Result<Self, AgentError> {
        if rate > 0.0 && rate <= 1.0 {
            Ok(Self(rate))
        } else {
            Err(AgentError::KeepRate(rate))
        }
    }

    /// How many of `patches` stay: rounded up, as EViT does (Liang et al. 2022).
    pub fn of(self, patches: usize) -> usize {
        // The small term keeps 0.7 * 10 from rounding up to 8.
        ((self.0 * patches as f64 - 1e-9).ceil() as usize).min(patches)
    }
}

impl TryFrom<f64> for KeepRate {
    type Error = AgentError;

    fn try_from(rate: f64) -> Result<Self, AgentError> {
        Self::new(rate)
    }
}

impl From<KeepRate> for f64 {
    fn from(rate: KeepRate) -> f64 {
        rate.0
    }
}

/// Keeps, in each image, the `count` visible patches that score highest, and what stands before the patches. Of equal
/// scores the earlier patch stays.
///
/// `scores` and the result have one entry a row.
pub fn keep_top(sequences: &Sequences, scores: &[f32], count: usize) -> Vec<bool> {
    keep_best(sequences, scores, |_, _| count)
}

/// Keeps, in each slot, so many of the visible patches as `count` says for the slot and their
/// number; otherwise like [`keep_top`].
pub fn keep_best(
    sequences: &Sequences,
    scores: &[f32],
    count: impl Fn(usize, usize) -> usize,
) -> Vec<bool> {
    let mut keep = vec![false; sequences.num_rows()];
    for (slot, rows) in sequences.starts().windows(2).enumerate() {
        let (first, end) = (rows[0], rows[1]);
        let patches = first + sequences.prefix();
        keep[first..patches].fill(true);
        let mut patches: Vec<usize> = (patches..end)
            .filter(|&row| sequences.visible()[row])
            .collect();
        let count = count(slot, patches.len());
        for &row in best(&mut patches, scores, count) {
            keep[row] = true;
        }
    }
    keep
}

/// The `count` of `rows` that score highest, the first of equals, in any order; all where there are no more.
pub(crate) fn best<'a>(rows: &'a mut [usize], scores: &[f32], count: usize) -> &'a [usize] {
    if count >= rows.len() {
        return rows;
    }
    let higher = |&a: &usize, &b: &usize| scores[b].total_cmp(&scores[a]).then(a.cmp(&b));
    rows.select_nth_unstable_by(count, higher).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::fused::highest;
    use burn::prelude::*;
    use proptest::prelude::*;

    #[test]
    fn the_kept_count_is_rounded_up() {
        let counts = [0.7, 0.5, 1.0, 0.01].map(|rate| KeepRate::new(rate).unwrap().of(10));
        assert_eq!(counts, [7, 5, 10, 1]);
        assert!(KeepRate::new(0.0).is_err() && KeepRate::new(1.1).is_err());
    }

    #[test]
    fn the_highest_scores_stay_and_cls_does_not_count() {
        let sequences = Sequences::full(2, 4);
        let scores = [9.0, 0.1, 0.3, 0.2, 9.0, 0.5, 0.5, 0.1];
        let keep = keep_top(&sequences, &scores, 1);
        assert_eq!(keep, [true, false, true, false, true, true, false, false]);
    }

    proptest! {
        #[test]
        fn device_and_host_keep_the_same_patches(
            (batch, tokens, scores) in (1usize..4, 3usize..12).prop_flat_map(|(batch, tokens)| {
                // Few values, so that many are equal.
                let scores = proptest::collection::vec(0u8..5, batch * tokens);
                (Just(batch), Just(tokens), scores)
            }),
            prefix in 1usize..3,
            rate in 0.05..1.0f64,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let count = KeepRate::new(rate).unwrap().of(tokens - prefix);
            let sequences = Sequences::full(batch, tokens).with_prefix(prefix);
            let host = keep_top(&sequences, &scores, count);
            let device = Device::default();
            let scores = Tensor::<1>::from_data(scores.as_slice(), &device);
            let scores = scores.reshape([batch, tokens]);
            let kept = highest(scores, prefix, count);
            let kept: Vec<bool> = kept.into_data().iter::<bool>().collect();
            prop_assert_eq!(kept, host);
        }
    }
}
