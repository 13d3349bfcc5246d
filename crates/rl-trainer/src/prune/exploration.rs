//! What every schedule does to every image: the frozen model as an environment, explored once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use apt_data::ImageDataset;
use apt_inference::{Answers, Fidelity, PruningVit};
use apt_pruning_agent::{Exploration, ScheduleTree, feature_count};
use apt_vit_model::fused::computes_here;
use apt_vit_model::{ExecutionMode, RunSettings, TokenBatch};
use burn::prelude::*;
use rayon::ThreadPoolBuilder;

use crate::TrainerError;
use crate::evaluate::{EvaluationSettings, loader};

/// Images that go through the tree together.
const BATCH: usize = 16;

/// What was seen of images, and how far each schedule's answers are from the dense ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Explored {
    /// How many images.
    pub images: usize,
    /// Per decision point, `[images, nodes, features]`.
    pub features: Vec<Vec<f32>>,
    /// `[images, schedules]`: KL(dense || pruned) in nats.
    pub distances: Vec<f32>,
    /// `[images, schedules]`: is the answer the dense one?
    pub equal: Vec<bool>,
}

impl Explored {
    /// Those of some of the images.
    pub fn subset(&self, images: &[usize]) -> Self {
        fn rows<T: Copy>(all: &[T], of: usize, images: &[usize]) -> Vec<T> {
            let width = all.len() / of.max(1);
            let rows = images.iter();
            rows.flat_map(|&image| all[image * width..(image + 1) * width].iter().copied())
                .collect()
        }
        let features = self.features.iter();
        Self {
            images: images.len(),
            features: features
                .map(|features| rows(features, self.images, images))
                .collect(),
            distances: rows(&self.distances, self.images, images),
            equal: rows(&self.equal, self.images, images),
        }
    }

    fn extend(&mut self, other: Self) {
        self.images += other.images;
        if self.features.is_empty() {
            self.features = other.features;
        } else {
            for (own, other) in self.features.iter_mut().zip(other.features) {
                own.extend(other);
            }
        }
        self.distances.extend(other.distances);
        self.equal.extend(other.equal);
    }
}

/// Runs every schedule of the tree on the images, in their order. Schedules that begin alike share what they have in
/// common. `go_on` is told how many images are done, and says whether to go on: where not, only the first ones are known.
///
/// # Errors
///
/// Where an image cannot be read, or an answer is no number.
pub fn explore(
    model: &PruningVit,
    tree: &ScheduleTree,
    images: &ImageDataset,
    settings: &EvaluationSettings,
    device: &Device,
    go_on: &(dyn Fn(usize) -> bool + Sync),
) -> Result<Explored, TrainerError> {
    let all: Vec<usize> = (0..images.len()).collect();
    let chunks: Vec<&[usize]> = all.chunks(BATCH).collect();
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let found: Mutex<Vec<Option<Result<Explored, TrainerError>>>> =
        Mutex::new(chunks.iter().map(|_| None).collect());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = chunks.get(index) else {
                break;
            };
            if !go_on(done.load(Ordering::Relaxed)) {
                break;
            }
            let explored = read(model, &images.subset(chunk), settings, device)
                .and_then(|tokens| explore_batch(model, tree, tokens));
            let failed = explored.is_err();
            found.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(explored);
            if failed {
                break;
            }
            done.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    };
    if computes_here(device) {
        // Images of its own on each thread: threads that share an operation wait for one another.
        std::thread::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                let alone = ThreadPoolBuilder::new().num_threads(1).build();
                scope.spawn(|| match alone {
                    Ok(pool) => pool.install(work),
                    Err(_) => work(),
                });
            }
        });
    } else {
        work();
    }
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut explored = Explored {
        images: 0,
        features: Vec::new(),
        distances: Vec::new(),
        equal: Vec::new(),
    };
    for batch in found.into_iter().map_while(|batch| batch) {
        explored.extend(batch?);
    }
    Ok(explored)
}

/// The images as tokens.
fn read(
    model: &PruningVit,
    images: &ImageDataset,
    settings: &EvaluationSettings,
    device: &Device,
) -> Result<TokenBatch, TrainerError> {
    let loader = loader(images, model, settings, BATCH, 0, device);
    let batch = loader.iter().next();
    let batch = batch.ok_or_else(|| TrainerError::Pruning("an empty batch".into()))?;
    let batch = batch.map_err(|error| TrainerError::Pruning(error.to_string()))?;
    Ok(model.vit.embed(batch.images))
}

/// A walk through the tree.
struct Walk<'a> {
    model: &'a PruningVit,
    tree: &'a ScheduleTree,
    /// Per decision point, per node, per image.
    seen: Vec<Vec<Vec<Vec<f32>>>>,
    /// Per schedule, `[images, classes]`.
    answers: Vec<Vec<f32>>,
}

fn explore_batch(
    model: &PruningVit,
    tree: &ScheduleTree,
    tokens: TokenBatch,
) -> Result<Explored, TrainerError> {
    let images = tokens.sequences.batch();
    let first = tree.blocks().start;
    let tokens = model
        .vit
        .run_blocks(tokens, 0..first, RunSettings::DENSE)
        .batch;
    let mut walk = Walk {
        model,
        tree,
        seen: vec![Vec::new(); tree.points().len()],
        answers: Vec::new(),
    };
    walk.visit(0, 0, &tokens);
    let answers = Answers::of(model.config());
    let fidelity = walk.answers.iter().map(|pruned| {
        let mut fidelity = Fidelity::new(answers);
        // The first schedule merges nothing.
        fidelity.add(&walk.answers[0], pruned, pruned.len() / images)?;
        Ok(fidelity)
    });
    let fidelity: Vec<Fidelity> = fidelity.collect::<Result<_, TrainerError>>()?;
    let of_image = |image: usize| fidelity.iter().map(move |fidelity| (fidelity, image));
    let pairs: Vec<(&Fidelity, usize)> = (0..images).flat_map(of_image).collect();
    let width = feature_count(model.config().hidden_size);
    let features = walk.seen.iter().map(|nodes| {
        let mut all = Vec::with_capacity(images * nodes.len() * width);
        for image in 0..images {
            nodes
                .iter()
                .for_each(|node| all.extend_from_slice(&node[image]));
        }
        all
    });
    Ok(Explored {
        images,
        features: features.collect(),
        distances: pairs
            .iter()
            .map(|(fidelity, image)| fidelity.divergence_of_images()[*image].max(0.0) as f32)
            .collect(),
        // Without classes no answers are equal.
        equal: pairs
            .iter()
            .map(|(fidelity, image)| fidelity.equal_of_images().get(*image).copied())
            .map(Option::unwrap_or_default)
            .collect(),
    })
}

impl Walk<'_> {
    /// Tries all choices at a node, where `tokens` enter its block.
    fn visit(&mut self, point: usize, node: usize, tokens: &TokenBatch) {
        let points = self.tree.points();
        let layers = self.model.config().num_layers;
        let until = points.get(point + 1).map_or(layers, |next| next.block);
        let choices = points[point].merges.len();
        for choice in 0..choices {
            let below = node * choices + choice;
            let schedule = below * self.tree.below(point + 1);
            let exploration = Exploration::new(self.tree, schedule);
            let settings = RunSettings {
                mode: ExecutionMode::Drop,
                reducer: Some(exploration.reducer()),
            };
            let blocks = points[point].block..until;
            let vit = &self.model.vit;
            let after = vit.run_blocks(tokens.clone(), blocks, settings).batch;
            if choice == 0 {
                self.seen[point].push(exploration.seen_at(point));
            }
            if point + 1 < points.len() {
                self.visit(point + 1, below, &after);
            } else {
                let logits = vit.classify(&after).into_data();
                self.answers.push(logits.iter::<f32>().collect());
            }
        }
    }
}
