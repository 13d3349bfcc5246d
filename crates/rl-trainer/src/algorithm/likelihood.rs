//! How probable a policy's decisions are.

use std::collections::BTreeMap;

use burn::prelude::*;
use burn::tensor::activation::{log_sigmoid, sigmoid};

use super::decision::Decision;

/// The logarithm of the probability of each decision on a patch, `[patches]`, as `logits`, `[rows, 2]`, give it.
pub fn log_likelihoods(decision: &Decision, logits: Tensor<2>, temperature: f32) -> Tensor<1> {
    log_likelihoods_of(decision, log_odds(decision, logits, temperature))
}

/// The same from the log-odds that each patch stays.
pub fn log_likelihoods_of(decision: &Decision, log_odds: Tensor<1>) -> Tensor<1> {
    let rows = decision.patch_rows().into_iter();
    let signs: Vec<f32> = rows
        .map(|row| if decision.keep[row] { 1.0 } else { -1.0 })
        .collect();
    let signs = Tensor::<1>::from_data(signs.as_slice(), &log_odds.device());
    log_sigmoid(log_odds * signs)
}

/// The log-odds that each patch stays, `[patches]`: it does where its score and the noise are together above what the
/// budget leaves room for. Temperature divides them.
pub fn log_odds(decision: &Decision, logits: Tensor<2>, temperature: f32) -> Tensor<1> {
    let rows = decision.patch_rows();
    let scores = rows_of(
        logits.clone().narrow(1, 0, 1) - logits.narrow(1, 1, 1),
        &rows,
    );
    let values: Vec<f32> = scores.to_data().iter::<f32>().collect();
    let least = least_kept(decision, &rows, &values);
    let least = Tensor::<1>::from_data(least.as_slice(), &scores.device());
    (scores - least) / temperature
}

/// For each of the rows, the score that is just kept without noise where as much is kept: in its image, or in the batch.
fn least_kept(decision: &Decision, rows: &[usize], scores: &[f32]) -> Vec<f32> {
    let image = decision.image_of_each_row();
    let group = |row: usize| if decision.by_image { image[row] } else { 0 };
    let mut groups: BTreeMap<usize, (Vec<f32>, usize)> = BTreeMap::new();
    for (&row, &score) in rows.iter().zip(scores) {
        let (sorted, kept) = groups.entry(group(row)).or_default();
        sorted.push(score);
        *kept += usize::from(decision.keep[row]);
    }
    let least = groups.into_iter().map(|(group, (mut sorted, kept))| {
        sorted.sort_by(|a, b| b.total_cmp(a));
        let last = sorted.len() - 1;
        let around = [kept.saturating_sub(1).min(last), kept.min(last)];
        (
            group,
            around.iter().map(|&place| sorted[place]).sum::<f32>() / 2.0,
        )
    });
    let least: BTreeMap<usize, f32> = least.collect();
    rows.iter().map(|&row| least[&group(row)]).collect()
}

/// How undecided each decision is, in nats, `[patches]`: `-p ln p - (1 - p) ln (1 - p)`.
pub fn entropy(log_odds: Tensor<1>) -> Tensor<1> {
    let stays = sigmoid(log_odds.clone());
    let goes = sigmoid(-log_odds.clone());
    -(stays * log_sigmoid(log_odds.clone()) + goes * log_sigmoid(-log_odds))
}

/// The given rows of one column.
pub fn rows_of(column: Tensor<2>, rows: &[usize]) -> Tensor<1> {
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &column.device());
    column.select(0, rows).flatten(0, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::Sequences;

    #[test]
    fn each_image_has_a_score_that_is_just_kept() {
        let device = Default::default();
        let mut decision = Decision {
            layer: 0,
            hidden: Tensor::zeros([8, 2], &device),
            sequences: Sequences::full(2, 4),
            cls_attention: None,
            keys: None,
            keep: vec![true, true, true, false, true, true, false, false],
            by_image: true,
            logits: None,
        };
        let rows = decision.patch_rows();
        let scores = [3.0, 2.0, 0.0, -5.0, -7.0, -9.0];
        let least = least_kept(&decision, &rows, &scores);
        assert_eq!(least, [1.0, 1.0, 1.0, -6.0, -6.0, -6.0]);
        decision.by_image = false;
        assert_eq!(least_kept(&decision, &rows, &scores), [-2.5; 6]);
    }

    #[test]
    fn entropy_is_greatest_where_nothing_is_decided() {
        let log_odds = Tensor::<1>::from_floats([-3.0, 0.0, 3.0, 40.0], &Default::default());
        let found: Vec<f32> = entropy(log_odds).into_data().iter().collect();
        let p = 1.0 / (1.0 + 3f32.exp());
        let sure = -p * p.ln() - (1.0 - p) * (1.0 - p).ln();
        let wanted = [sure, 2f32.ln(), sure, 0.0];
        for (found, wanted) in found.into_iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{found} for {wanted}");
        }
    }
}
