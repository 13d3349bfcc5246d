//! How near a pruned model's answers are to the dense model's.

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::{InferenceError, NotFinite};

/// How near a pruned model's answers are to those of the dense model, image by image: KL(dense || pruned) in nats, and
/// whether both put the same class first.
///
/// All values are kept in the order of the images, so that two policies can be compared on the same images. Serialised,
/// it is the count of images and the means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fidelity {
    kl: Vec<f64>,
    equal: Vec<bool>,
}

impl Fidelity {
    /// Takes in the logits of some images, of the dense model and of the pruned one: `[images, classes]`, row after row.
    ///
    /// # Errors
    ///
    /// Where there are not as many of both or no whole rows of them, or where one is infinite or no number. Nothing is
    /// taken in then.
    pub fn add_logits(
        &mut self,
        dense: &[f32],
        pruned: &[f32],
        classes: usize,
    ) -> Result<(), InferenceError> {
        let (found, expected) = (pruned.len(), dense.len());
        if classes == 0 || found != expected || found % classes != 0 {
            return Err(InferenceError::Compared {
                reason: format!(
                    "{found} logits of the pruned model and {expected} of the dense one, expected as many of both, and \
                     {classes} of each image"
                ),
            });
        }
        let images = found / classes;
        let mut kl = Vec::with_capacity(images);
        let mut equal = Vec::with_capacity(images);
        for (dense, pruned) in dense
            .chunks_exact(classes)
            .zip(pruned.chunks_exact(classes))
        {
            kl.push(kl_divergence(dense, pruned)?);
            equal.push(top_class(dense) == top_class(pruned));
        }
        self.kl.extend(kl);
        self.equal.extend(equal);
        Ok(())
    }

    /// How many images were compared.
    pub fn images(&self) -> usize {
        self.kl.len()
    }

    /// KL(dense || pruned) in nats, mean over the images; none without images.
    pub fn kl(&self) -> Option<f64> {
        mean(self.kl.iter().copied())
    }

    /// Share of the images of which both models put the same class first; none without images.
    pub fn equal_answers(&self) -> Option<f64> {
        mean(self.equal.iter().map(|&equal| f64::from(u8::from(equal))))
    }

    /// KL(dense || pruned) in nats, per image.
    pub fn kl_of_images(&self) -> &[f64] {
        &self.kl
    }

    /// Per image: do both models put the same class first?
    pub fn equal_of_images(&self) -> &[bool] {
        &self.equal
    }
}

impl Serialize for Fidelity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let means = [("kl", self.kl()), ("equal_answers", self.equal_answers())];
        let known = means.iter().filter(|(_, mean)| mean.is_some()).count();
        let mut fields = serializer.serialize_struct("Fidelity", 1 + known)?;
        fields.serialize_field("images", &self.images())?;
        for (name, mean) in means {
            match mean {
                Some(mean) => fields.serialize_field(name, &mean)?,
                None => fields.skip_field(name)?,
            }
        }
        fields.end()
    }
}

/// KL(dense || pruned) of the answers to one image, in nats, from the logits of all classes. It is never below 0.
///
/// # Errors
///
/// Where there are not as many of both, or one is infinite or no number.
pub fn kl_divergence(dense: &[f32], pruned: &[f32]) -> Result<f64, InferenceError> {
    if dense.len() != pruned.len() {
        return Err(InferenceError::Compared {
            reason: format!(
                "{} logits of the pruned model, expected {} as of the dense one",
                pruned.len(),
                dense.len()
            ),
        });
    }
    let (dense, pruned) = (log_softmax(dense)?, log_softmax(pruned)?);
    let terms = dense.iter().zip(&pruned);
    let sum: f64 = terms
        .map(|(&dense, &pruned)| dense.exp() * (dense - pruned))
        .sum();
    // Rounding takes the divergence of equal answers below 0.
    Ok(sum.max(0.0))
}

/// The logarithms of the classes' probabilities.
///
/// # Errors
///
/// Where a logit is infinite or no number.
fn log_softmax(logits: &[f32]) -> Result<Vec<f64>, InferenceError> {
    all_finite("logit", logits)?;
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted: Vec<f64> = logits
        .iter()
        .map(|&logit| f64::from(logit) - f64::from(most))
        .collect();
    let log_sum = shifted.iter().map(|value| value.exp()).sum::<f64>().ln();
    Ok(shifted.into_iter().map(|value| value - log_sum).collect())
}

/// The class of the highest logit, the first of equals.
fn top_class(logits: &[f32]) -> usize {
    let mut top = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[top] {
            top = class;
        }
    }
    top
}

fn all_finite(what: &'static str, values: &[f32]) -> Result<(), InferenceError> {
    NotFinite::check(what, values).map_err(|found| InferenceError::Compared {
        reason: found.to_string(),
    })
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_is_that_of_the_definition() {
        // Probabilities 1/2, 1/4, 1/4 and 1/4, 1/2, 1/4: KL = 1/2 ln 2 - 1/4 ln 2.
        let dense = [2f32.ln(), 0.0, 0.0];
        let pruned = [0.0, 2f32.ln(), 0.0];
        let kl = kl_divergence(&dense, &pruned).unwrap();
        assert!((kl - 0.25 * 2f64.ln()).abs() < 1e-7, "{kl}");
        // It is not symmetric: of a sure model and an unsure one, the unsure one's mistake costs more.
        let (sure, unsure) = ([4.0, 0.0, 0.0], [0.0, 0.0, 0.0]);
        let (ahead, back) = (kl_divergence(&sure, &unsure), kl_divergence(&unsure, &sure));
        assert!(ahead.unwrap() < back.unwrap());
    }

    #[test]
    fn what_all_logits_have_in_common_does_not_matter_and_large_ones_do_not_overflow() {
        let dense = [1.0, -2.0, 0.5];
        let moved = dense.map(|logit| logit + 256.0);
        assert_eq!(kl_divergence(&dense, &moved).unwrap(), 0.0);
        let far = kl_divergence(&[1e30, -1e30], &[-1e30, 1e30]).unwrap();
        assert!(far.is_finite() && far > 1e30, "{far}");
        assert_eq!(kl_divergence(&[1e4, 0.0], &[1e4, -1e4]).unwrap(), 0.0);
    }

    #[test]
    fn means_are_over_images_and_their_values_are_kept_in_order() {
        let mut fidelity = Fidelity::default();
        assert_eq!((fidelity.images(), fidelity.kl()), (0, None));
        fidelity
            .add_logits(&[1.0, 0.0, 1.0, 0.0], &[1.0, 0.0, 0.0, 1.0], 2)
            .unwrap();
        fidelity.add_logits(&[3.0, 1.0], &[5.0, 1.0], 2).unwrap();
        assert_eq!(fidelity.equal_of_images(), [true, false, true]);
        assert_eq!(fidelity.equal_answers(), Some(2.0 / 3.0));
        let kl = fidelity.kl_of_images();
        assert_eq!(kl[0], 0.0);
        assert!(kl[1] > kl[2] && kl[2] > 0.0);
        let sum: f64 = kl.iter().sum();
        assert_eq!(fidelity.kl(), Some(sum / 3.0));
        let written = serde_json::to_value(&fidelity).unwrap();
        assert_eq!(written["images"], 3);
        assert_eq!(written["kl"], sum / 3.0);
    }

    #[test]
    fn answers_that_are_no_numbers_are_refused_and_leave_nothing_behind() {
        let mut fidelity = Fidelity::default();
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let pruned = [1.0, 0.0, wrong, 0.0];
            let error = fidelity.add_logits(&[1.0, 0.0, 1.0, 0.0], &pruned, 2);
            let message = error.unwrap_err().to_string();
            assert!(message.contains(&wrong.to_string()), "{message}");
            assert!(fidelity.add_logits(&[wrong, 0.0], &[1.0, 0.0], 2).is_err());
        }
        assert_eq!(fidelity, Fidelity::default());
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let mut fidelity = Fidelity::default();
        assert!(
            fidelity
                .add_logits(&[1.0, 0.0], &[1.0, 0.0, 1.0], 1)
                .is_err()
        );
        assert!(fidelity.add_logits(&[1.0, 0.0], &[1.0, 0.0], 0).is_err());
        assert!(fidelity.add_logits(&[1.0; 3], &[1.0; 3], 2).is_err());
        assert!(kl_divergence(&[1.0], &[1.0, 2.0]).is_err());
    }
}
