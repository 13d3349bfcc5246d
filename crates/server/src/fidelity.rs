//! How near pruned answers are to the dense model's.

use std::collections::VecDeque;

use apt_inference::probabilities;

/// Over how many samples the mean is taken.
const WINDOW: usize = 200;

/// An answer that is to be computed again, dense.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// `[3, height, width]`
    pub values: Vec<f32>,
    /// Of the pruned pass.
    pub logits: Vec<f32>,
}

/// The mean over the last samples.
#[derive(Clone, Debug, Default)]
pub struct Fidelity {
    last: VecDeque<(f64, bool)>,
    samples: u64,
}

impl Fidelity {
    /// Adds an image's logits, dense and pruned.
    pub fn add(&mut self, dense: &[f32], pruned: &[f32]) {
        if self.last.len() == WINDOW {
            self.last.pop_front();
        }
        let agree = best(dense) == best(pruned);
        self.last.push_back((divergence(dense, pruned), agree));
        self.samples += 1;
    }

    /// How many there were so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// KL(dense || pruned) in nats.
    pub fn divergence(&self) -> Option<f64> {
        let sum: f64 = self.last.iter().map(|(divergence, _)| divergence).sum();
        (!self.last.is_empty()).then(|| sum / self.last.len() as f64)
    }

    /// The share of equal top-1 answers.
    pub fn agreement(&self) -> Option<f64> {
        let equal = self.last.iter().filter(|(_, agree)| *agree).count();
        (!self.last.is_empty()).then(|| equal as f64 / self.last.len() as f64)
    }
}

fn best(logits: &[f32]) -> Option<usize> {
    let indices = 0..logits.len();
    indices.max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}

/// KL(p || q) of the softmax of both.
fn divergence(dense: &[f32], pruned: &[f32]) -> f64 {
    let (dense, pruned) = (probabilities(dense), probabilities(pruned));
    let terms = dense.iter().zip(&pruned).filter(|pair| *pair.0 > 0.0);
    let terms = terms.map(|(&p, &q)| {
        let (p, q) = (f64::from(p), f64::from(q).max(f64::from(f32::MIN_POSITIVE)));
        p * (p / q).ln()
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_answers_have_no_divergence_and_others_have_the_one_that_the_formula_says() {
        let mut fidelity = Fidelity::default();
        assert_eq!(fidelity.agreement(), None);
        fidelity.add(&[1.0, 2.0], &[4.0, 5.0]);
        assert!(fidelity.divergence().unwrap().abs() < 1e-6);
        // p = (1/4, 3/4), q = (1/2, 1/2).
        fidelity.add(&[0.0, 3f32.ln()], &[0.1, 0.1]);
        let expected = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!((fidelity.divergence().unwrap() - expected / 2.0).abs() < 1e-6);
        fidelity.add(&[0.0, 1.0], &[1.0, 0.0]);
        fidelity.add(&[0.0, 1.0], &[0.0, 1.0]);
        assert_eq!(fidelity.samples(), 4);
        assert!(fidelity.agreement().unwrap() < 1.0);
    }
}
