//! What a model's sizes can be. Everything is checked before anything is built, so that a wrong number neither overflows
//! nor asks for memory that nobody has.

use std::ops::RangeInclusive;

use super::{ImageSize, VitConfig};
use crate::{StemConfig, VitError};

const IMAGE_SIDE: RangeInclusive<usize> = 1..=ImageSize::MAX_SIDE;
/// Patches of an image. Attention compares each with each.
const PATCHES: usize = 65_536;
const HIDDEN_SIZE: RangeInclusive<usize> = 1..=65_536;
const NUM_LAYERS: RangeInclusive<usize> = 1..=1024;
const MLP_DIM: RangeInclusive<usize> = 1..=262_144;
const NUM_CLASSES: RangeInclusive<usize> = 0..=1_000_000;
/// Parameters in all: 80 GB in f32. The largest published Vision Transformer has 22 billion, which no single device trains.
const PARAMETERS: u64 = 20_000_000_000;
/// Stages of convolutions before the patches.
pub(crate) const STEM_STAGES: RangeInclusive<usize> = 1..=8;
const STEM_UNITS: RangeInclusive<usize> = 1..=1024;
const STEM_CHANNELS: RangeInclusive<usize> = 1..=16_384;
/// With what LayerScale may start.
const LAYER_SCALE: f64 = 1000.0;

/// Wrong values, as they are found.
#[derive(Default)]
struct Wrong(Vec<VitError>);

impl Wrong {
    fn add(&mut self, field: &'static str, found: impl ToString, expected: impl Into<String>) {
        self.0.push(VitError::Config {
            field,
            found: found.to_string(),
            expected: expected.into(),
        });
    }

    fn count(&mut self, field: &'static str, found: usize, range: RangeInclusive<usize>) {
        if !range.contains(&found) {
            self.add(field, found, in_range(&range));
        }
    }
}

fn in_range(range: &RangeInclusive<usize>) -> String {
    format!("must be from {} to {}", range.start(), range.end())
}

impl VitConfig {
    /// Checks that each size can be, and that they fit together.
    ///
    /// # Errors
    ///
    /// Names the first field that does not fit, its value, and what it has to be.
    pub fn validate(&self) -> Result<(), VitError> {
        let first = self.wrong_values().into_iter().next();
        first.map_or(Ok(()), Err)
    }

    /// Everything that is wrong with the sizes: each is a [`VitError::Config`]. Empty where a model can be made.
    pub fn wrong_values(&self) -> Vec<VitError> {
        // How sizes fit together can only be asked of sizes that can be.
        let mut wrong = Wrong(self.out_of_range());
        if wrong.0.is_empty() {
            self.check_fit(&mut wrong);
        }
        if wrong.0.is_empty() {
            self.check_parameters(&mut wrong);
        }
        wrong.0
    }

    /// What is wrong with each value alone, whatever the others are.
    pub fn out_of_range(&self) -> Vec<VitError> {
        let mut wrong = Wrong::default();
        let ImageSize { height, width } = self.image_size;
        if [height, width]
            .iter()
            .any(|side| !IMAGE_SIDE.contains(side))
        {
            wrong.add("image_size", self.image_size, in_range(&IMAGE_SIDE));
        }
        wrong.count("patch_size", self.patch_size, IMAGE_SIDE);
        wrong.count("hidden_size", self.hidden_size, HIDDEN_SIZE);
        wrong.count("num_layers", self.num_layers, NUM_LAYERS);
        wrong.count("num_heads", self.num_heads, HIDDEN_SIZE);
        wrong.count("mlp_dim", self.mlp_dim, MLP_DIM);
        wrong.count("num_classes", self.num_classes, NUM_CLASSES);
        if !(0.0..1.0).contains(&self.dropout) {
            wrong.add("dropout", self.dropout, "must be at least 0 and below 1");
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            let expected = "must be above 0 and below 1";
            wrong.add("layer_norm_eps", self.layer_norm_eps, expected);
        }
        if let Some(scale) = self.layer_scale {
            // A value that is no number is in no range.
            if !(-LAYER_SCALE..=LAYER_SCALE).contains(&scale) {
                let expected = format!("must be from -{LAYER_SCALE} to {LAYER_SCALE}");
                wrong.add("layer_scale", scale, expected);
            }
        }
        if let Some(stem) = &self.stem {
            check_stem(stem, &mut wrong);
        }
        wrong.0
    }

    /// The values beside each other.
    fn check_fit(&self, wrong: &mut Wrong) {
        let ImageSize { height, width } = self.image_size;
        let patch = self.patch_size;
        if [height, width]
            .iter()
            .any(|side| !side.is_multiple_of(patch))
        {
            let expected = format!("must be a multiple of patch_size = {patch}");
            wrong.add("image_size", self.image_size, expected);
        } else if self.num_patches() > PATCHES {
            let expected = format!(
                "must be larger: it cuts an image of {} into {} patches, of which there can be {PATCHES}",
                self.image_size,
                self.num_patches()
            );
            wrong.add("patch_size", patch, expected);
        }
        if let Some(stem) = &self.stem {
            if let Err(error) = stem.validate() {
                wrong.0.push(error);
            }
            let reduction = stem.reduction();
            if !patch.is_multiple_of(reduction) {
                let expected =
                    format!("must be a multiple of {reduction}, by which the stem divides");
                wrong.add("patch_size", patch, expected);
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            let expected = format!("must be a multiple of num_heads = {}", self.num_heads);
            wrong.add("hidden_size", self.hidden_size, expected);
        }
    }

    fn check_parameters(&self, wrong: &mut Wrong) {
        let parameters = self.parameters();
        if parameters > PARAMETERS {
            let billions = |count: u64| count as f64 / 1e9;
            let expected = format!(
                "with num_layers = {}, mlp_dim = {} and num_classes = {} makes {:.1} billion parameters; must be at most \
                 {:.0} billion in all, what memory can hold",
                self.num_layers,
                self.mlp_dim,
                self.num_classes,
                billions(parameters),
                billions(PARAMETERS),
            );
            wrong.add("hidden_size", self.hidden_size, expected);
        }
    }
}

fn check_stem(stem: &StemConfig, wrong: &mut Wrong) {
    wrong.count("stem.channels", stem.channels, STEM_CHANNELS);
    if !STEM_STAGES.contains(&stem.stages.len()) {
        // A list of a million stages is not to be printed.
        let found = format!("a list of {}", stem.stages.len());
        let expected = format!(
            "must have {} to {} stages",
            STEM_STAGES.start(),
            STEM_STAGES.end()
        );
        wrong.add("stem.stages", found, expected);
        return;
    }
    let possible = |&[units, channels]: &[usize; 2]| {
        STEM_UNITS.contains(&units) && STEM_CHANNELS.contains(&channels)
    };
    if !stem.stages.iter().all(possible) {
        let expected = format!(
            "must be [units, channels] for each stage, of {} to {} units and {} to {} channels",
            STEM_UNITS.start(),
            STEM_UNITS.end(),
            STEM_CHANNELS.start(),
            STEM_CHANNELS.end()
        );
        wrong.add("stem.stages", format!("{:?}", stem.stages), expected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VitPreset;
    use burn::tensor::Device;

    /// What making such a model says.
    fn refused(change: impl FnOnce(&mut VitConfig)) -> String {
        let mut config = VitPreset::Tiny32.config();
        change(&mut config);
        config.init(&Device::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_model_of_impossible_sizes_is_refused_before_it_is_made() {
        for absurd in [0, 1 << 31, 1 << 62, usize::MAX] {
            for (key, message) in [
                ("num_layers", refused(|c| c.num_layers = absurd)),
                ("mlp_dim", refused(|c| c.mlp_dim = absurd)),
                ("hidden_size", refused(|c| c.hidden_size = absurd)),
                ("num_heads", refused(|c| c.num_heads = absurd)),
                ("patch_size", refused(|c| c.patch_size = absurd)),
                (
                    "image_size",
                    refused(|c| c.image_size = ImageSize::square(absurd)),
                ),
            ] {
                let said = format!("{key} = {absurd}: must be from 1 to ");
                assert!(message.contains(&said), "{message}");
            }
        }
    }

    #[test]
    fn a_model_without_classes_can_be_and_one_of_absurdly_many_cannot() {
        for absurd in [1 << 31, 1 << 62, usize::MAX] {
            let message = refused(|config| config.num_classes = absurd);
            let said = format!("num_classes = {absurd}: must be from 0 to ");
            assert!(message.contains(&said), "{message}");
        }
        let none = VitConfig {
            num_classes: 0,
            ..VitPreset::Tiny32.config()
        };
        assert!(none.init(&Device::default()).unwrap().head.is_none());
    }

    #[test]
    fn a_stem_of_impossible_sizes_is_refused_before_it_is_made() {
        let stem = |channels, stages| {
            refused(|config| config.stem = Some(StemConfig { channels, stages }))
        };
        for message in [
            stem(64, vec![[1, 128]; 1000]),
            stem(64, vec![[usize::MAX, 128]]),
            stem(64, vec![[1, usize::MAX]]),
            stem(64, vec![[0, 128]]),
            stem(64, Vec::new()),
        ] {
            assert!(message.contains("stem.stages = "), "{message}");
        }
        let message = stem(1 << 40, vec![[1, 128]]);
        assert!(
            message.contains("stem.channels = 1099511627776"),
            "{message}"
        );
    }

    #[test]
    fn sizes_that_memory_cannot_hold_together_are_refused() {
        let message = refused(|config| {
            config.hidden_size = 65_536;
            config.num_layers = 1024;
        });
        assert!(message.contains("billion parameters"), "{message}");
        assert!(message.contains("at most 20 billion"), "{message}");
        let message = refused(|config| {
            config.image_size = ImageSize::square(4096);
            config.patch_size = 1;
        });
        assert!(message.contains("16777216 patches"), "{message}");
    }

    #[test]
    fn numbers_that_are_no_numbers_are_refused() {
        for value in [f64::NAN, f64::INFINITY, -1.0, 2000.0] {
            assert!(refused(|c| c.dropout = value).contains("dropout = "));
            assert!(refused(|c| c.layer_norm_eps = value).contains("layer_norm_eps = "));
        }
        assert!(refused(|c| c.layer_scale = Some(f64::NAN)).contains("layer_scale = NaN"));
    }

    #[test]
    fn all_wrong_sizes_are_found_at_once() {
        let config = VitConfig {
            num_layers: 0,
            mlp_dim: usize::MAX,
            ..VitPreset::Tiny32.config()
        };
        let fields = config.wrong_values().into_iter().map(|wrong| match wrong {
            VitError::Config { field, .. } => field,
            other => panic!("{other}"),
        });
        assert_eq!(fields.collect::<Vec<_>>(), ["num_layers", "mlp_dim"]);
    }

    #[test]
    fn every_preset_can_be() {
        for preset in VitPreset::ALL {
            preset.config().validate().unwrap();
        }
    }
}
