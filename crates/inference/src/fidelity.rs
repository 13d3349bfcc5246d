//! How near a pruned model's answers are to the dense model's.

use apt_vit_model::VitConfig;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::{InferenceError, NotFinite};

/// How near a pruned model's answers are to those of the dense model, image by image.
///
/// Of a model with classes: KL(dense || pruned) in nats, and whether both put the same class first. Of one without a head:
/// the cosine of their features. All values are kept in the order of the images, so that two policies can be compared on the
/// same images. Serialised, it is the count of images and the means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fidelity {
    answers: Answers,
    divergence: Vec<f64>,
    equal: Vec<bool>,
}

/// With what a model answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// Logits of its classes.
    #[default]
    Logits,
    /// The features of an image: the model has no head.
    Features,
}

impl Answers {
    /// Those of models of these sizes.
    pub fn of(config: &VitConfig) -> Self {
        if config.num_classes == 0 {
            Self::Features
        } else {
            Self::Logits
        }
    }

    /// How far an answer moved, as tables call it.
    pub fn divergence(self) -> &'static str {
        match self {
            Self::Logits => "KL(dense || pruned)",
            Self::Features => "1 - cosine of features",
        }
    }

    /// What one answer is made of.
    pub fn name(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Features => "features",
        }
    }
}

impl Fidelity {
    /// Of nothing yet, to compare such answers.
    pub fn new(answers: Answers) -> Self {
        Self {
            answers,
            ..Self::default()
        }
    }

    /// Takes in the answers to some images, of the dense model and of the pruned one: `[images, width]`, row after row.
    ///
    /// # Errors
    ///
    /// Where there are not as many of both or no whole rows of them, or where one is infinite or no number. Nothing is
    /// taken in then.
    pub fn add(
        &mut self,
        dense: &[f32],
        pruned: &[f32],
        width: usize,
    ) -> Result<(), InferenceError> {
        let (found, expected, what) = (pruned.len(), dense.len(), self.answers.name());
        if width == 0 || found != expected || found % width != 0 {
            return Err(InferenceError::Compared {
                reason: format!(
                    "{found} {what} of the pruned model and {expected} of the dense one, expected as many of both, and \
                     {width} of each image"
                ),
            });
        }
        let images = found / width;
        let mut divergence = Vec::with_capacity(images);
        let mut equal = Vec::with_capacity(images);
        for (dense, pruned) in dense.chunks_exact(width).zip(pruned.chunks_exact(width)) {
            match self.answers {
                Answers::Logits => {
                    divergence.push(kl_divergence(dense, pruned)?);
                    equal.push(top_class(dense) == top_class(pruned));
                }
                Answers::Features => divergence.push(1.0 - cosine(dense, pruned)?),
            }
        }
        self.divergence.extend(divergence);
        self.equal.extend(equal);
        Ok(())
    }

    /// How many images were compared.
    pub fn images(&self) -> usize {
        self.divergence.len()
    }

    /// How far answers moved, mean over the images: KL(dense || pruned) in nats, or 1 minus the cosine of features. None
    /// without images.
    pub fn divergence(&self) -> Option<f64> {
        mean(self.divergence.iter().copied())
    }

    /// The divergence per image.
    pub fn divergence_of_images(&self) -> &[f64] {
        &self.divergence
    }

    /// KL(dense || pruned) in nats, mean over the images; none without images or classes.
    pub fn kl(&self) -> Option<f64> {
        self.divergence()
            .filter(|_| self.answers == Answers::Logits)
    }

    /// The cosine of dense and pruned features, mean over the images; none without images, or where there are classes.
    pub fn cosine(&self) -> Option<f64> {
        let features = self
            .divergence()
            .filter(|_| self.answers == Answers::Features);
        features.map(|divergence| 1.0 - divergence)
    }

    /// Share of the images of which both models put the same class first; none without images or classes.
    pub fn equal_answers(&self) -> Option<f64> {
        mean(self.equal.iter().map(|&equal| f64::from(u8::from(equal))))
    }

    /// Per image: do both models put the same class first? Empty without classes.
    pub fn equal_of_images(&self) -> &[bool] {
        &self.equal
    }
}

impl Serialize for Fidelity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let means = [
            ("kl", self.kl()),
            ("cosine", self.cosine()),
            ("equal_answers", self.equal_answers()),
        ];
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

/// The cosine of the features of one image, from -1 to 1.
fn cosine(dense: &[f32], pruned: &[f32]) -> Result<f64, InferenceError> {
    for features in [dense, pruned] {
        all_finite("feature", features)?;
    }
    let product = |a: &[f32], b: &[f32]| -> f64 {
        let terms = a.iter().zip(b);
        terms.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let lengths = (product(dense, dense) * product(pruned, pruned)).sqrt();
    if lengths == 0.0 {
        return Err(InferenceError::Compared {
            reason: "features that are all 0 have no direction".into(),
        });
    }
    Ok((product(dense, pruned) / lengths).clamp(-1.0, 1.0))
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
            .add(&[1.0, 0.0, 1.0, 0.0], &[1.0, 0.0, 0.0, 1.0], 2)
            .unwrap();
        fidelity.add(&[3.0, 1.0], &[5.0, 1.0], 2).unwrap();
        assert_eq!(fidelity.equal_of_images(), [true, false, true]);
        assert_eq!(fidelity.equal_answers(), Some(2.0 / 3.0));
        let kl = fidelity.divergence_of_images();
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
            let error = fidelity.add(&[1.0, 0.0, 1.0, 0.0], &pruned, 2);
            let message = error.unwrap_err().to_string();
            assert!(message.contains(&wrong.to_string()), "{message}");
            assert!(fidelity.add(&[wrong, 0.0], &[1.0, 0.0], 2).is_err());
        }
        assert_eq!(fidelity, Fidelity::default());
    }

    #[test]
    fn features_are_compared_by_their_direction() {
        let mut fidelity = Fidelity::new(Answers::Features);
        fidelity
            .add(&[1.0, 0.0, 2.0, 0.0], &[3.0, 0.0, 1.0, 1.0], 2)
            .unwrap();
        let expected = 1.0 - 0.5f64.sqrt();
        let found = fidelity.divergence_of_images();
        assert!(found[0] == 0.0 && (found[1] - expected).abs() < 1e-9);
        assert_eq!((fidelity.kl(), fidelity.equal_answers()), (None, None));
        assert!((fidelity.cosine().unwrap() - (1.0 + 0.5f64.sqrt()) / 2.0).abs() < 1e-9);
        let written = serde_json::to_value(&fidelity).unwrap();
        assert!(written["cosine"].is_f64() && written.get("kl").is_none());
        for wrong in [f32::NAN, 0.0] {
            assert!(fidelity.add(&[wrong; 2], &[1.0, 0.0], 2).is_err());
        }
        assert_eq!(fidelity.images(), 2);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let mut fidelity = Fidelity::default();
        assert!(fidelity.add(&[1.0, 0.0], &[1.0, 0.0, 1.0], 1).is_err());
        assert!(fidelity.add(&[1.0, 0.0], &[1.0, 0.0], 0).is_err());
        assert!(fidelity.add(&[1.0; 3], &[1.0; 3], 2).is_err());
        assert!(kl_divergence(&[1.0], &[1.0, 2.0]).is_err());
    }
}
