//! A model that looks things up.

use std::collections::BTreeMap;

use apt_data::RgbImage;
use apt_inference::{Answer, ClassProbability, Model, NotFinite, probabilities, rows};
use apt_vit_model::VitOutput;
use serde::Serialize;

use crate::held::Held;
use crate::store::Store;
use crate::vote::{ClassCounts, Vote};
use crate::{Judge, MemoryError, Neighbor, Remembered, Which};

/// An entry as similar as this is the same picture, or nearly: it alone speaks, and is believed. So a label that was
/// corrected holds.
const SAME: f32 = 0.99;

/// A model and its memory.
pub struct Recall {
    model: Model,
    held: Held,
}

/// What both say of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Recalled {
    /// The answer, the memory's classes and the search's cost included. Classes that only the memory knows have places
    /// behind the model's.
    pub answer: Answer,
    /// How it came about.
    pub lookup: Lookup,
}

/// How an answer came about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lookup {
    /// The most probable classes by the model alone.
    pub alone: Vec<ClassProbability>,
    /// The memory's share of the answer, from 0 to 1; none where it was not asked.
    pub share: Option<f32>,
    /// The entries that spoke, the most similar first.
    pub neighbors: Vec<Neighbor>,
    /// Why the memory was asked in vain: then the model answered alone.
    pub failure: Option<String>,
}

impl Recall {
    /// Joins a model and the memory that was built with it.
    ///
    /// # Errors
    ///
    /// Where the memory was built with another model.
    pub fn new(model: Model, store: Box<dyn Store>) -> Result<Self, MemoryError> {
        Self::holding(model, store.into())
    }

    /// The same. Where the memory's database is away, the model answers alone, and says so, until it is there.
    ///
    /// # Errors
    ///
    /// Where the memory is open, and was built with another model.
    pub fn holding(model: Model, held: Held) -> Result<Self, MemoryError> {
        if let Some(store) = held.now() {
            store.about().check(&model)?;
        }
        Ok(Self { model, held })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The memory.
    ///
    /// # Errors
    ///
    /// Where it is not open yet, and its database is still away, or has a memory of another model.
    pub fn store(&self) -> Result<&dyn Store, MemoryError> {
        self.held.store(&self.model)
    }

    /// Adds what the model makes of pictures to the memory.
    ///
    /// # Errors
    ///
    /// Where it is away or cannot be written; then nothing is added.
    pub fn add(&mut self, remembered: Vec<Remembered>) -> Result<(), MemoryError> {
        let store = self.held.store_mut(&self.model)?;
        let whitening = &store.about().whitening;
        let entries = remembered.into_iter().map(|one| one.entry(whitening));
        let entries = entries.collect();
        store.add(entries)
    }

    /// Removes entries, and says how many they were.
    ///
    /// # Errors
    ///
    /// Where it is away or the change cannot be written; then none is removed.
    pub fn remove(&mut self, which: &Which) -> Result<usize, MemoryError> {
        self.held.store_mut(&self.model)?.remove(which)
    }

    /// The `top` most probable classes of each image, the memory asked where the agent asks it.
    pub fn classify(&self, images: &[RgbImage], top: usize) -> Vec<Result<Recalled, NotFinite>> {
        if images.is_empty() {
            return Vec::new();
        }
        let output = self.model.forward(self.model.preprocess(images));
        self.answers(output, top)
    }

    /// The answers that a pass of [`Model::forward`] gives, as [`classify`](Self::classify).
    pub fn answers(&self, output: VitOutput, top: usize) -> Vec<Result<Recalled, NotFinite>> {
        let (logits, features) = (rows(output.logits.clone()), rows(output.features.clone()));
        let answers = self.model.answers(output, top).into_iter();
        let answers = answers.zip(&features).map(|(answer, features)| {
            NotFinite::check("features", features)?;
            answer
        });
        let answers: Vec<Result<Answer, NotFinite>> = answers.collect();
        // What is no number would spoil the search for the others.
        let sound = |rows: Vec<Vec<f32>>| -> Vec<Vec<f32>> {
            let rows = rows.into_iter().zip(&answers);
            rows.filter_map(|(row, answer)| answer.is_ok().then_some(row))
                .collect()
        };
        let (logits, features) = (sound(logits), sound(features));
        let mut found = self.look_up(&logits, &features, top).into_iter();
        let recalled = answers.into_iter().filter_map(|answer| {
            let mut answer = match answer {
                Ok(answer) => answer,
                Err(reason) => return Some(Err(reason)),
            };
            let (classes, lookup) = found.next()?;
            answer.classes = classes;
            self.count_search(&lookup, &mut answer.flops, &mut answer.flops_share);
            Some(Ok(Recalled { answer, lookup }))
        });
        recalled.collect()
    }

    /// The `top` most probable classes of images by what the model computed for each: logits, which a model without
    /// classes has not and that are not looked at then, and features.
    pub fn look_up(
        &self,
        logits: &[Vec<f32>],
        features: &[Vec<f32>],
        top: usize,
    ) -> Vec<(Vec<ClassProbability>, Lookup)> {
        let owns: Vec<Vec<f32>> = logits.iter().map(|logits| self.own(logits)).collect();
        let store = self.store();
        let asks = owns.iter().map(|own| match &store {
            Ok(store) => store.about().judge.asks(own),
            // Nobody knows whether it would have been asked.
            Err(_) => true,
        });
        let asks: Vec<bool> = asks.collect();
        let asking = features.iter().zip(&asks).filter(|(_, asks)| **asks);
        let asking: Vec<&Vec<f32>> = asking.map(|(features, _)| features).collect();
        let found = store.and_then(|store| neighbors(store, &asking));
        let (found, counts, failure) = match found {
            Ok((found, counts)) => (found, counts, None),
            Err(error) => (Vec::new(), ClassCounts::new(), Some(error.to_string())),
        };
        let mut found = found.into_iter();
        let owns = owns.into_iter().zip(asks).zip(logits);
        let looked_up = owns.map(|((own, asks), logits)| {
            let alone = if own.is_empty() {
                Vec::new()
            } else {
                self.model.top_classes(logits, top)
            };
            let neighbors = if asks { found.next() } else { None };
            match neighbors.zip(self.held.now()) {
                Some((neighbors, store)) => {
                    let judge = &store.about().judge;
                    self.mixed(judge, &own, alone, neighbors, &counts, top)
                }
                None => {
                    let lookup = Lookup {
                        alone: alone.clone(),
                        share: None,
                        neighbors: Vec::new(),
                        failure: failure.clone().filter(|_| asks),
                    };
                    (alone, lookup)
                }
            }
        });
        looked_up.collect()
    }

    /// Counts a search, where there was one, among the FLOPs of an answer and their share of the dense model's.
    pub fn count_search(&self, lookup: &Lookup, flops: &mut u64, share: &mut f64) {
        if let Some(store) = self.held.now().filter(|_| lookup.share.is_some()) {
            let dense = *flops as f64 / *share;
            *flops += store.search_flops() + store.about().whitening.flops();
            *share = *flops as f64 / dense;
        }
    }

    /// The model's probabilities; none of a model without classes.
    fn own(&self, logits: &[f32]) -> Vec<f32> {
        if self.model.class_names().is_empty() {
            Vec::new()
        } else {
            probabilities(logits)
        }
    }

    /// The classes of both.
    fn mixed(
        &self,
        judge: &Judge,
        own: &[f32],
        alone: Vec<ClassProbability>,
        mut neighbors: Vec<Neighbor>,
        counts: &ClassCounts,
        top: usize,
    ) -> (Vec<ClassProbability>, Lookup) {
        let same = neighbors
            .iter()
            .filter(|near| near.similarity >= SAME)
            .count();
        if same > 0 {
            neighbors.truncate(same);
        }
        let names = self.model.class_names();
        let vote = Vote::of(&neighbors, counts, judge.temperature, judge.balance);
        let place_of = |class: &str| names.iter().position(|name| name == class);
        let first = vote.shares.first().and_then(|share| place_of(&share.0));
        let of_vote = first.map_or(0.0, |class| own[class]);
        let of_own = alone.first().map_or(0.0, |class| vote.share(&class.class));
        let weight = if same > 0 {
            1.0
        } else {
            judge.weight(own, &vote, of_vote, of_own)
        };

        let mut shares: BTreeMap<usize, f32> = BTreeMap::new();
        for (class, probability) in own.iter().enumerate() {
            shares.insert(class, (1.0 - weight) * probability);
        }
        // In the order of the alphabet, so that a class has the same place wherever its neighbours stand.
        let mut new: Vec<&str> = vote.shares.iter().map(|share| share.0.as_str()).collect();
        new.retain(|class| place_of(class).is_none());
        new.sort_unstable();
        let name_of = |class: usize| match names.get(class) {
            Some(name) => name.clone(),
            None => new[class - names.len()].to_string(),
        };
        for (class, share) in &vote.shares {
            let behind = || names.len() + new.iter().position(|new| new == class).unwrap_or(0);
            let place = place_of(class).unwrap_or_else(behind);
            *shares.entry(place).or_default() += weight * share;
        }
        let mut order: Vec<(usize, f32)> = shares.into_iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let classes = order.into_iter().take(top);
        let classes = classes.map(|(index, probability)| ClassProbability {
            class: name_of(index),
            index,
            probability,
        });
        let lookup = Lookup {
            alone,
            share: Some(weight),
            neighbors,
            failure: None,
        };
        (classes.collect(), lookup)
    }
}

/// What speaks for images of these features, and how many entries each class has.
fn neighbors(
    store: &dyn Store,
    features: &[&Vec<f32>],
) -> Result<(Vec<Vec<Neighbor>>, ClassCounts), MemoryError> {
    if features.is_empty() {
        return Ok((Vec::new(), ClassCounts::new()));
    }
    let about = store.about();
    let features = features.iter();
    let features: Vec<_> = features.map(|one| about.whitening.apply(one)).collect();
    let found = store.nearest(&features, about.judge.neighbors)?;
    Ok((found, store.counts()?))
}
