//! How many patches to keep after each block, searched on images for the answers that are nearest to the dense model's.

use apt_data::ImageDataset;
use apt_inference::{Answers, Fidelity, PruningVit};
use apt_pruning_agent::Selection;
use apt_vit_model::ExecutionMode;
use burn::prelude::*;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

use super::schedules::Schedules;
use crate::TrainerError;
use crate::evaluate::{EvaluationSettings, loader};

/// After so many images, a schedule that is surely worse than the best one is given up.
const RACE: usize = 64;
/// How many standard errors worse that is.
const SURELY: f64 = 2.0;

/// A search for the number of merges of each block, the same for every image, that keeps a model's answers nearest to the
/// dense ones at a share of the FLOPs: after DiffRate's question (Chen et al., 2023), by trying whole passes.
///
/// It begins with the same number in every block, with numbers that rise or fall with the depth, and with blocks that
/// rest at either end. Then it moves merges from one block of the best one to another, ever fewer at a time, and keeps what
/// is better on the same images. Every schedule that is tried computes the share, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleSearch {
    /// Schedules that are tried.
    pub candidates: usize,
    /// Images that they are tried on: the first so many.
    pub images: usize,
    /// Which moves are tried derives from it.
    pub seed: u64,
}

impl Default for ScheduleSearch {
    fn default() -> Self {
        Self {
            candidates: 80,
            images: 256,
            seed: 0,
        }
    }
}

/// A schedule that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct TriedSchedule {
    /// Patches that stay after each of the policy's blocks.
    pub kept: Vec<usize>,
    /// Counted: of the dense FLOPs, the policy's own included.
    pub flops_share: f64,
    /// How far its answers are from the dense ones, mean over images: KL(dense || pruned) in nats. Infinite where it was
    /// given up before all images were seen.
    pub distance: f64,
}

impl ScheduleSearch {
    /// Searches a schedule that computes the share `target` of the dense FLOPs. It calls `progress` for each schedule that it
    /// tries.
    ///
    /// # Errors
    ///
    /// Where there is no image, one cannot be read, the share cannot be met, or an answer is no number.
    pub fn run(
        &self,
        model: &PruningVit,
        images: &ImageDataset,
        target: f64,
        settings: &EvaluationSettings,
        device: &Device,
        progress: impl FnMut(&TriedSchedule),
    ) -> Result<TriedSchedule, TrainerError> {
        let images = images.take(self.images);
        if images.is_empty() {
            let reason = "a schedule is searched on images, and there is none".to_string();
            return Err(TrainerError::Training(reason));
        }
        let batches = answered(model, &images, settings, device)?;
        let first = model.kept_for(target)?;
        let schedules = Schedules {
            policy: &model.policy,
            config: model.config(),
            target,
        };
        let judge = |kept: &[usize], best: Option<&[f64]>| distances(model, &batches, kept, best);
        self.search(&schedules, first, judge, progress)
    }

    /// `judge` says of a schedule how far each image's answer is from the dense one, or nothing where it is surely worse
    /// than the best one, of which it is told the same.
    fn search(
        &self,
        schedules: &Schedules<'_>,
        first: Vec<usize>,
        mut judge: impl FnMut(&[usize], Option<&[f64]>) -> Result<Option<Vec<f64>>, TrainerError>,
        mut progress: impl FnMut(&TriedSchedule),
    ) -> Result<TriedSchedule, TrainerError> {
        let mut best: Option<(TriedSchedule, Vec<f64>)> = None;
        let mut seen: Vec<Vec<usize>> = Vec::new();
        let mut consider = |kept: Vec<usize>, best: &mut Option<(TriedSchedule, Vec<f64>)>| {
            if seen.contains(&kept) {
                return Ok::<_, TrainerError>(false);
            }
            seen.push(kept.clone());
            let distances = judge(&kept, best.as_ref().map(|(_, distances)| &distances[..]))?;
            let distance = distances.as_deref().map_or(f64::INFINITY, mean);
            let tried = TriedSchedule {
                flops_share: schedules.share(&kept),
                kept,
                distance,
            };
            progress(&tried);
            let is_better = best
                .as_ref()
                .is_none_or(|(best, _)| distance < best.distance);
            if let Some(distances) = distances.filter(|_| is_better) {
                *best = Some((tried, distances));
            }
            Ok(true)
        };
        let mut left = self.candidates.max(1);
        let shapes = schedules.shapes().into_iter().flatten();
        for kept in std::iter::once(first).chain(shapes).take(left) {
            left -= usize::from(consider(kept, &mut best)?);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        for (round, step) in STEPS.into_iter().enumerate() {
            let mut of_step = left / (STEPS.len() - round);
            // Moves that lead nowhere, or back, cost nothing, but are not tried for ever.
            for _ in 0..20 * of_step {
                let Some((current, _)) = best.as_ref().filter(|_| of_step > 0) else {
                    break;
                };
                if let Some(kept) = schedules.moved(&current.kept, step, &mut rng) {
                    let is_new = usize::from(consider(kept, &mut best)?);
                    of_step -= is_new;
                    left -= is_new;
                }
            }
        }
        let (best, _) = best.ok_or_else(|| {
            TrainerError::Training("no schedule could be tried on these images".into())
        })?;
        Ok(best)
    }
}

/// What is moved at once, as a share of the mean number of merges of a block.
const STEPS: [f64; 4] = [1.0, 0.5, 0.25, 0.125];

/// A batch of images, `[batch, 3, height, width]`, and the dense model's answers, `[batch, width]` row after row.
struct Answered {
    images: Tensor<4>,
    dense: Vec<f32>,
    width: usize,
}

fn answered(
    model: &PruningVit,
    images: &ImageDataset,
    settings: &EvaluationSettings,
    device: &Device,
) -> Result<Vec<Answered>, TrainerError> {
    let (batch_size, workers) = (settings.batch_size.min(RACE), settings.workers);
    let loader = loader(images, model, settings, batch_size, workers, device);
    let batches = loader.iter().map(|batch| {
        let batch = batch.map_err(|error| TrainerError::Training(error.to_string()))?;
        let output = model.run(
            batch.images.clone(),
            ExecutionMode::Dense,
            &Selection::All,
            &[],
        );
        let [_, width] = output.logits.dims();
        Ok(Answered {
            images: batch.images,
            dense: output.logits.into_data().iter::<f32>().collect(),
            width,
        })
    });
    batches.collect()
}

/// Per image, how far the answer moves; nothing where it is surely more than `best` in the mean.
fn distances(
    model: &PruningVit,
    batches: &[Answered],
    kept: &[usize],
    best: Option<&[f64]>,
) -> Result<Option<Vec<f64>>, TrainerError> {
    let selection = Selection::Kept {
        kept: kept.to_vec(),
    };
    let mut fidelity = Fidelity::new(Answers::of(model.config()));
    for batch in batches {
        let output = model.run(batch.images.clone(), ExecutionMode::Drop, &selection, &[]);
        let pruned: Vec<f32> = output.logits.into_data().iter::<f32>().collect();
        fidelity.add(&batch.dense, &pruned, batch.width)?;
        if best.is_some_and(|best| is_surely_worse(fidelity.divergence_of_images(), best)) {
            return Ok(None);
        }
    }
    Ok(Some(fidelity.divergence_of_images().to_vec()))
}

/// Is the mean of `found` above that of `best` by more than [`SURELY`] standard errors of the paired differences?
fn is_surely_worse(found: &[f64], best: &[f64]) -> bool {
    if found.len() < RACE {
        return false;
    }
    let pairs = found.iter().zip(best);
    let differences: Vec<f64> = pairs.map(|(found, best)| found - best).collect();
    let difference = mean(&differences);
    let squares = differences.iter().map(|value| (value - difference).powi(2));
    let variance = squares.sum::<f64>() / (differences.len() - 1) as f64;
    difference > SURELY * (variance / differences.len() as f64).sqrt()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_pruning_agent::PolicyConfig;
    use apt_vit_model::VitPreset;

    /// A merge in block `l` costs as the square of how many merge there, times `weight(l)`.
    fn searched(target: f64, weight: impl Fn(usize) -> f64) -> [TriedSchedule; 2] {
        let config = VitPreset::Tiny32.config();
        let policy = PolicyConfig::named("tome-schedule").unwrap();
        let policy = policy.init(&config, &Device::default()).unwrap();
        let schedules = Schedules {
            policy: &policy,
            config: &config,
            target,
        };
        let first = policy.kept_for(&config, target).unwrap();
        let cost = |kept: &[usize]| -> f64 {
            let before = std::iter::once(config.num_patches()).chain(kept.iter().copied());
            let merges = before
                .zip(kept)
                .map(|(before, kept)| (before - kept) as f64);
            let costs = merges
                .enumerate()
                .map(|(block, merges)| weight(block) * merges * merges);
            costs.sum()
        };
        let mut tried = Vec::new();
        let search = ScheduleSearch {
            candidates: 200,
            ..Default::default()
        };
        let judge = |kept: &[usize], _: Option<&[f64]>| Ok(Some(vec![cost(kept); 3]));
        let best = search
            .search(&schedules, first.clone(), judge, |each| {
                tried.push(each.clone())
            })
            .unwrap();
        assert!(tried.len() <= 200);
        for each in &tried {
            assert!(
                each.flops_share <= target + 1e-9 && target - each.flops_share < 0.03,
                "{each:?}"
            );
            let mut before = config.num_patches();
            for &kept in &each.kept {
                assert!(kept <= before && kept >= before - before / 2, "{each:?}");
                before = kept;
            }
        }
        assert_eq!(tried[0].kept, first);
        [tried[0].clone(), best]
    }

    #[test]
    fn merges_go_where_they_cost_least_and_the_share_stays() {
        let [constant, late] = searched(0.6, |block| if block < 2 { 9.0 } else { 1.0 });
        assert!(
            late.distance < 0.8 * constant.distance,
            "{late:?} {constant:?}"
        );
        assert!(late.kept[1] > constant.kept[1], "{late:?} {constant:?}");
        let [constant, early] = searched(0.6, |block| if block < 2 { 1.0 } else { 9.0 });
        assert!(early.distance < constant.distance);
        assert!(early.kept[1] < constant.kept[1], "{early:?} {constant:?}");
    }

    #[test]
    fn the_same_seed_finds_the_same_schedule() {
        let found = || searched(0.7, |block| 1.0 + block as f64)[1].clone();
        assert_eq!(found(), found());
    }

    #[test]
    fn only_what_is_worse_beyond_chance_is_given_up() {
        let best: Vec<f64> = (0..RACE).map(|image| (image % 7) as f64).collect();
        let with = |extra: &dyn Fn(usize) -> f64| -> Vec<f64> {
            best.iter()
                .enumerate()
                .map(|(image, best)| best + extra(image))
                .collect()
        };
        assert!(is_surely_worse(
            &with(&|image| 0.1 + 0.01 * (image % 2) as f64),
            &best
        ));
        assert!(!is_surely_worse(&with(&|_| -0.1), &best));
        // One image in all is worse.
        assert!(!is_surely_worse(
            &with(&|image| f64::from(u8::from(image == 0))),
            &best
        ));
        assert!(!is_surely_worse(&with(&|_| 1.0)[..RACE - 1], &best));
    }
}
