//! Schedules for images: a reducer that merges in each image as much as it was allocated.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use apt_vit_model::{Needs, Observation, Placement, Reduction, TokenReducer};

use crate::AgentError;
use crate::image_features::image_features;
use crate::matching::{Pair, keep_closest, matched_pairs};
use crate::merging::merge_pairs;
use crate::proportion::PUBLISHED;
use crate::schedule_tree::ScheduleTree;

/// Refuses a share of the FLOPs that no schedule comes down to; `shares` are those of the schedules.
pub(crate) fn check_share(shares: &[f64], share: f64) -> Result<(), AgentError> {
    let least = shares.iter().copied().fold(1.0, f64::min);
    if share < least {
        return Err(AgentError::Share {
            share,
            least,
            most: 1.0,
        });
    }
    Ok(())
}

/// An image at a decision point.
pub(crate) struct Asked {
    /// Its place in the batch.
    pub image: usize,
    /// The node that it is at.
    pub node: usize,
    /// What [`image_features`] tells of it; empty where the chooser does not observe.
    pub features: Vec<f32>,
}

/// Who chooses schedules.
pub(crate) trait Chooser: Sync {
    /// Does it look at the images?
    fn observes(&self) -> bool;

    /// A schedule below its node for each image that stands at this decision point. At the next point, it is asked again.
    fn choose(&self, point: usize, asked: &[Asked]) -> Vec<usize>;
}

/// Merges in each image as many of the most similar pairs as its schedule says.
pub(crate) struct AllocationReducer<'a, C> {
    pub tree: &'a ScheduleTree,
    pub chooser: C,
    /// The schedule of each image of the batch, as of its last decision point.
    schedules: Mutex<BTreeMap<usize, usize>>,
}

impl<'a, C: Chooser> AllocationReducer<'a, C> {
    pub fn new(tree: &'a ScheduleTree, chooser: C) -> Self {
        Self {
            tree,
            chooser,
            schedules: Mutex::default(),
        }
    }

    fn is_decided_in(&self, layer: usize) -> bool {
        let mut points = self.tree.points().iter();
        points.any(|point| point.block == layer)
    }

    /// The schedule of each slot. An image that no decision point has seen merges nothing.
    fn schedules(
        &self,
        point: usize,
        observation: &Observation<'_>,
        pairs: Option<&[Vec<Pair>]>,
    ) -> Vec<usize> {
        let sequences = observation.sequences;
        let images = (0..sequences.batch()).map(|slot| sequences.image(slot));
        let known = self.schedules.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        let now: Vec<usize> = images
            .clone()
            .map(|image| known.get(&image).copied().unwrap_or(0))
            .collect();
        if !self.is_decided_in(observation.layer) {
            return now;
        }
        let features = match pairs.filter(|_| self.chooser.observes()) {
            Some(pairs) => image_features(observation, pairs),
            None => vec![Vec::new(); now.len()],
        };
        let asked = images.clone().zip(&now).zip(features);
        let asked: Vec<Asked> = asked
            .map(|((image, schedule), features)| Asked {
                image,
                // At the first point an earlier pass over images of the same places means nothing.
                node: schedule / self.tree.below(point) % self.tree.nodes(point),
                features,
            })
            .collect();
        let chosen = self.chooser.choose(point, &asked);
        known.extend(images.zip(chosen.iter().copied()));
        chosen
    }
}

impl<C: Chooser> TokenReducer for AllocationReducer<'_, C> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        let point = self.tree.point_of(layer);
        point.map(|_| Placement::AfterAttention)
    }

    fn needs(&self, layer: usize) -> Needs {
        Needs {
            cls_attention: self.chooser.observes() && self.is_decided_in(layer),
            keys: true,
        }
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let Some(point) = self.tree.point_of(observation.layer) else {
            return Reduction::none(sequences);
        };
        let observes = self.chooser.observes() && self.is_decided_in(observation.layer);
        let seen = observes.then(|| matched_pairs(observation));
        let schedules = self.schedules(point, observation, seen.as_deref());
        let merges = &self.tree.points()[point].merges;
        let counts = schedules.iter();
        let counts: Vec<usize> = counts
            .map(|&schedule| merges[self.tree.choice(schedule, point)])
            .collect();
        if counts.iter().all(|&count| count == 0) {
            return Reduction::none(sequences);
        }
        let mut pairs = seen.unwrap_or_else(|| matched_pairs(observation));
        for (pairs, count) in pairs.iter_mut().zip(counts) {
            keep_closest(pairs, count);
        }
        let pairs = pairs.iter().flatten();
        let pairs = pairs.map(|pair| (pair.from, pair.into));
        let merge = merge_pairs(sequences, pairs, PUBLISHED as f32);
        let keep = merge.into.iter().enumerate();
        let keep = keep.map(|(row, &into)| row == into).collect();
        Reduction {
            merge: Some(merge),
            ..Reduction::keep(keep)
        }
    }
}

/// One schedule for all images, and what every decision point on its way shows of them: from such passes the divergence that
/// each schedule leads to is known.
pub struct Exploration<'a>(AllocationReducer<'a, Follow>);

struct Follow {
    schedule: usize,
    /// Per decision point, per image.
    seen: Mutex<BTreeMap<usize, BTreeMap<usize, Vec<f32>>>>,
}

impl<'a> Exploration<'a> {
    /// All images follow `schedule`.
    pub fn new(tree: &'a ScheduleTree, schedule: usize) -> Self {
        let seen = Mutex::default();
        Self(AllocationReducer::new(tree, Follow { schedule, seen }))
    }

    /// What it follows.
    pub fn reducer(&self) -> &dyn TokenReducer {
        &self.0
    }

    /// What [`feature_count`](crate::feature_count) numbers say of each image at a decision point that was passed, in the
    /// order of the images.
    pub fn seen_at(&self, point: usize) -> Vec<Vec<f32>> {
        let seen = &self.0.chooser.seen;
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of_point = seen.get(&point).into_iter();
        of_point
            .flat_map(|images| images.values().cloned())
            .collect()
    }
}

impl Chooser for Follow {
    fn observes(&self) -> bool {
        true
    }

    fn choose(&self, point: usize, asked: &[Asked]) -> Vec<usize> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let images = asked
            .iter()
            .map(|asked| (asked.image, asked.features.clone()));
        seen.entry(point).or_default().extend(images);
        vec![self.schedule; asked.len()]
    }
}
