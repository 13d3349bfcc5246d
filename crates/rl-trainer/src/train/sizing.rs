//! What a training of somebody's own images needs, from how many there are.

use apt_data::{Normalization, Splits};
use apt_inference::Preprocessing;

use crate::TrainerError;
use crate::config::ModelConfig;

/// Evaluations of a training.
const EVALUATIONS: usize = 8;
/// Images whose longer side is up to this are small.
const SMALL: u32 = 64;

/// A key of a config, the value that suits the images, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sized {
    /// As in `train.steps`.
    pub key: &'static str,
    /// In TOML.
    pub value: String,
    /// In words.
    pub why: String,
}

/// The keys of a config that depend on how many images there are and on the weights that `model` starts from.
///
/// # Errors
///
/// Where there are too few images, or the weights cannot be read.
pub fn size_for(splits: &Splits, model: &ModelConfig) -> Result<Vec<Sized>, TrainerError> {
    let (all, classes) = (splits.train.len(), splits.train.num_classes());
    let mut sized = Vec::new();
    let mut add = |key, value: String, why: String| sized.push(Sized { key, value, why });
    let held_out = match &splits.val {
        Some(val) => {
            let count = val.len().min(2000);
            add(
                "input.val_images",
                count.to_string(),
                "the validation split".into(),
            );
            0
        }
        None => {
            let count = (all / 10)
                .clamp(classes.min(all / 4).min(2000), 2000)
                .max(1);
            let why = "a tenth of the training images, to choose checkpoints by".into();
            add("input.val_images", count.to_string(), why);
            count
        }
    };
    let learned = all.saturating_sub(held_out);
    if learned < 2 * classes {
        return Err(TrainerError::Field {
            field: "data".into(),
            found: format!("{all} training images of {classes} classes"),
            expected: "must be at least a few of each class".into(),
        });
    }
    let weights = model.checkpoint()?;
    // Pretrained models need few passes, others many.
    let (batch, times, least, most) = if weights.is_some() {
        (16, 8, 4_000, 64_000)
    } else {
        (32, 30, 20_000, 160_000)
    };
    let passes = (learned * times).clamp(least, most);
    let interval = passes.div_ceil(batch * EVALUATIONS).max(1);
    let steps = interval * EVALUATIONS;
    let through = (steps * batch) as f64 / learned as f64;
    add("train.batch_size", batch.to_string(), "usual".into());
    add(
        "train.steps",
        steps.to_string(),
        format!("{through:.1} times through {learned} images"),
    );
    add(
        "train.eval_interval",
        interval.to_string(),
        format!("{EVALUATIONS} evaluations"),
    );
    add(
        "train.dense_steps",
        (steps / 4).to_string(),
        "a quarter: first the model learns the images".into(),
    );
    add(
        "train.agent_warmup_steps",
        (steps / 8).to_string(),
        "an eighth: then the policy learns before it acts".into(),
    );
    add(
        "schedule.warmup_steps",
        (steps / 10).to_string(),
        "a tenth".into(),
    );
    match (&model.pretrained, weights) {
        (Some(path), Some(checkpoint)) => {
            let found = Preprocessing::beside(path, checkpoint.info().naming)?;
            let Normalization { mean, std } = found.normalization;
            let why = || "as the pretrained weights saw their images".to_string();
            add("input.normalization.mean", format!("{mean:?}"), why());
            add("input.normalization.std", format!("{std:?}"), why());
        }
        _ => {
            let side = if longest_side(splits)? <= SMALL {
                32
            } else {
                64
            };
            let why =
                "no pretrained weights (model.pretrained): a small model that is quick to train";
            add("model.preset", "\"vit-small32\"".into(), why.into());
            add(
                "model.image_size",
                side.to_string(),
                "for a small model".into(),
            );
            add(
                "optimizer.learning_rate",
                "5e-4".into(),
                "from random weights".into(),
            );
            add(
                "input.normalization.mean",
                "[0.5, 0.5, 0.5]".into(),
                "usual".into(),
            );
            add(
                "input.normalization.std",
                "[0.5, 0.5, 0.5]".into(),
                "usual".into(),
            );
        }
    }
    Ok(sized)
}

/// The longer side of the first image, in pixels.
fn longest_side(splits: &Splits) -> Result<u32, TrainerError> {
    let image = splits.train.image(0)?;
    Ok(image.width.max(image.height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_data::{ImageDataset, RgbImage};

    fn splits(count: usize) -> Splits {
        let image = RgbImage {
            width: 40,
            height: 30,
            pixels: vec![9; 40 * 30 * 3],
        };
        let images = (0..count)
            .map(|number| (image.clone(), number % 3))
            .collect();
        let names = ["ant", "bee", "cat"].map(String::from).to_vec();
        let train = ImageDataset::from_images(names, images).unwrap();
        Splits {
            test: train.take(3),
            val: None,
            train,
        }
    }

    #[test]
    fn few_images_are_seen_often_and_a_tenth_is_held_out() {
        let sized = size_for(&splits(300), &ModelConfig::default()).unwrap();
        let value = |key: &str| -> usize {
            let found = sized.iter().find(|sized| sized.key == key).unwrap();
            found.value.parse().unwrap()
        };
        assert_eq!(value("input.val_images"), 30);
        assert!(value("train.steps").is_multiple_of(value("train.eval_interval")));
        assert!(value("train.steps") * 32 >= 20_000);
        assert!(
            value("train.dense_steps") + value("train.agent_warmup_steps") < value("train.steps")
        );
        assert_eq!(value("model.image_size"), 32);
    }

    #[test]
    fn a_handful_of_images_is_refused_and_a_few_are_not() {
        size_for(&splits(12), &ModelConfig::default()).unwrap();
        let error = size_for(&splits(4), &ModelConfig::default()).unwrap_err();
        assert!(error.to_string().contains("4 training images"), "{error}");
    }
}
