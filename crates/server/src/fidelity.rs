//! How near pruned answers are to the dense model's.

use std::collections::VecDeque;

use apt_inference::{Fidelity as OfImages, InferenceError};

/// The means are over this many samples.
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
    last: VecDeque<OfImages>,
    samples: u64,
}

impl Fidelity {
    /// Adds an image's logits, dense and pruned.
    ///
    /// # Errors
    ///
    /// Where a logit is infinite or no number. Nothing is added then.
    pub fn add(&mut self, dense: &[f32], pruned: &[f32]) -> Result<(), InferenceError> {
        let mut image = OfImages::default();
        image.add(dense, pruned, dense.len())?;
        if self.last.len() == WINDOW {
            self.last.pop_front();
        }
        self.last.push_back(image);
        self.samples += 1;
        Ok(())
    }

    /// How many there were so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// KL(dense || pruned) in nats.
    pub fn divergence(&self) -> Option<f64> {
        self.mean(OfImages::kl)
    }

    /// The share of equal top-1 answers.
    pub fn agreement(&self) -> Option<f64> {
        self.mean(OfImages::equal_answers)
    }

    fn mean(&self, of: fn(&OfImages) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.last.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_answers_have_no_divergence_and_others_have_the_one_that_the_formula_says() {
        let mut fidelity = Fidelity::default();
        assert_eq!(fidelity.agreement(), None);
        fidelity.add(&[1.0, 2.0], &[4.0, 5.0]).unwrap();
        assert!(fidelity.divergence().unwrap().abs() < 1e-6);
        // p = (1/4, 3/4), q = (1/2, 1/2).
        fidelity.add(&[0.0, 3f32.ln()], &[0.1, 0.1]).unwrap();
        let expected = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!((fidelity.divergence().unwrap() - expected / 2.0).abs() < 1e-6);
        fidelity.add(&[0.0, 1.0], &[1.0, 0.0]).unwrap();
        fidelity.add(&[0.0, 1.0], &[0.0, 1.0]).unwrap();
        assert_eq!(fidelity.samples(), 4);
        assert!(fidelity.agreement().unwrap() < 1.0);
    }

    #[test]
    fn an_answer_that_is_no_number_leaves_the_means_as_they_were() {
        let mut fidelity = Fidelity::default();
        fidelity.add(&[0.0, 1.0], &[0.0, 1.0]).unwrap();
        assert!(fidelity.add(&[f32::NAN, 1.0], &[0.0, 1.0]).is_err());
        assert_eq!((fidelity.samples(), fidelity.agreement()), (1, Some(1.0)));
    }
}
