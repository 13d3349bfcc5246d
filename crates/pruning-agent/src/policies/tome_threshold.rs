use apt_vit_model::{
    FlopsCount, Needs, Observation, Placement, Reduction, TokenReducer, VitConfig,
};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::tome::{Tome, TomeSettings};
use crate::matching::matched_pairs;
use crate::merging::merge_pairs;
use crate::proportion::PUBLISHED;
use crate::{AgentError, Budgeting, Policy, PolicySettings, Selection};

/// Settings of [`TomeThreshold`]: there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TomeThresholdSettings {}

impl PolicySettings for TomeThresholdSettings {
    const NAME: &'static str = "tome-threshold";
    const SUMMARY: &'static str = "merges all matched pairs above a similarity, which is fitted on images: more in simple \
                                   images than in others, without learning; before it is fitted, as `tome`";
    type Policy = TomeThreshold;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<TomeThreshold, AgentError> {
        Ok(TomeThreshold {
            tome: TomeSettings::default().init(model, device)?,
        })
    }
}

/// ToMe's matching (Bolya et al., "Token Merging: Your ViT But Faster", 2023, section 3), of which all pairs merge whose
/// similarity is above a threshold: the same one in every block and for every image, so that images keep different
/// numbers of patches. The threshold is fitted so that the mean share of the FLOPs is the budget.
///
/// A patch scores minus the similarity of its pair: what scores below a least score goes.
#[derive(Module, Debug)]
pub struct TomeThreshold {
    tome: Tome,
}

impl Policy for TomeThreshold {
    fn blocks(&self) -> &[usize] {
        self.tome.blocks()
    }

    fn placement(&self) -> Placement {
        self.tome.placement()
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        seeds: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        match selection {
            Selection::Kept { .. } => self.tome.reducer(selection, seeds),
            _ => Box::new(ThresholdReducer {
                blocks: self.blocks(),
                selection: selection.clone(),
            }),
        }
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        let matching = self.tome.matching_flops(model, seen);
        matching + self.tome.merging_flops(model, seen, left)
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        self.tome.kept_for(model, share)
    }

    fn budgeting(&self) -> Budgeting {
        // Cosines.
        Budgeting::Level { most: 1.0 }
    }
}

struct ThresholdReducer<'a> {
    blocks: &'a [usize],
    selection: Selection,
}

impl ThresholdReducer<'_> {
    fn index_of(&self, layer: usize) -> Option<usize> {
        self.blocks.iter().position(|&acting| acting == layer)
    }
}

impl TokenReducer for ThresholdReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.index_of(layer).map(|_| Placement::AfterAttention)
    }

    fn needs(&self, _: usize) -> Needs {
        Needs {
            cls_attention: false,
            keys: true,
        }
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        if self.selection.is_of_batch() {
            None
        } else {
            Some(self)
        }
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let Some(index) = self.index_of(observation.layer) else {
            return Reduction::none(sequences);
        };
        let pairs = matched_pairs(observation);
        // What has no other to go into stays.
        let mut scores = vec![f32::INFINITY; sequences.num_rows()];
        for pair in pairs.iter().flatten() {
            scores[pair.from] = -pair.similarity;
        }
        let mut keep = self.selection.keep(index, sequences, &scores);
        for (keep, score) in keep.iter_mut().zip(&scores) {
            *keep |= score.is_infinite();
        }
        let gone = pairs.iter().flatten().filter(|pair| !keep[pair.from]);
        let gone = gone.map(|pair| (pair.from, pair.into));
        let merge = merge_pairs(sequences, gone, PUBLISHED as f32);
        Reduction {
            merge: Some(merge),
            ..Reduction::keep(keep)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::observed;
    use apt_vit_model::{TokenBatch, VitPreset};

    /// Of two images with CLS and six patches, the seekers 2, 4 and 6 are near to others: those of the first at
    /// similarities of about 1, 0.9 and 0.7, those of the second at 0.5, 0.2 and -0.1.
    fn kept_at(similarity: f64) -> Vec<usize> {
        let device = Device::default();
        let policy = TomeThresholdSettings::default();
        let policy = policy.init(&VitPreset::Tiny32.config(), &device).unwrap();
        let image = |cosines: [f32; 3]| {
            // What is looked at stands on axes 1, 2 and 3, and what a seeker lacks to a unit vector on an axis of its own.
            let mut keys = vec![[0f32; 8]; 7];
            for (pair, cosine) in cosines.into_iter().enumerate() {
                keys[1 + 2 * pair][1 + pair] = 1.0;
                keys[2 + 2 * pair][1 + pair] = cosine;
                keys[2 + 2 * pair][4 + pair] = (1.0 - cosine * cosine).sqrt();
            }
            keys.concat()
        };
        let keys = [image([0.99, 0.9, 0.7]), image([0.5, 0.2, 0.1])].concat();
        let keys = Tensor::<1>::from_data(keys.as_slice(), &device).reshape([14, 8]);
        let batch = TokenBatch::full(Tensor::<3>::ones([2, 7, 4], &device));
        let scores = vec![-similarity; policy.blocks().len()];
        let reducer = policy.reducer(&Selection::LeastScores { scores }, &[]);
        let reduction = reducer.reduce(&observed(&batch, keys));
        assert!(reduction.keep[0] && reduction.keep[7], "CLS");
        let images = reduction.keep.chunks(7);
        images
            .map(|image| image.iter().filter(|keep| **keep).count())
            .collect()
    }

    #[test]
    fn a_higher_threshold_keeps_more_and_images_keep_what_is_unlike_the_rest() {
        assert_eq!(kept_at(1.0), [7, 7]);
        assert_eq!(kept_at(0.95), [6, 7]);
        assert_eq!(kept_at(0.8), [5, 7]);
        assert_eq!(kept_at(0.4), [4, 6]);
        assert_eq!(kept_at(-1.0), [4, 4]);
    }
}
