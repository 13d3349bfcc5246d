//! Images into entries, and a memory's agent out of them.

use std::collections::HashMap;

use apt_data::{ImageDataset, RgbImage};
use apt_inference::{Model, rows};
use apt_vit_model::vit_flops;

use crate::entry::picture_id;
use crate::learn::{Heard, Lesson, NEIGHBORS, learn};
use crate::search::Index;
use crate::{About, Entry, Label, MemoryError, Whitening};

/// Images of a forward pass.
const BATCH: usize = 32;
/// One in so many images is held out for the agent,
const HELD_OUT: usize = 5;
/// which learns from so many at most.
const LESSONS: usize = 2000;

/// An image that becomes an entry.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its pixels.
    pub image: RgbImage,
    /// The class that it shows.
    pub class: String,
    /// Where it comes from.
    pub source: String,
}

/// What the model makes of a picture.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// The picture.
    pub label: Label,
    /// The model's features: the CLS token after the last norm.
    pub features: Vec<f32>,
    /// None of a model without classes.
    pub logits: Vec<f32>,
}

impl Remembered {
    /// As a memory keeps it.
    pub fn entry(self, whitening: &Whitening) -> Entry {
        Entry {
            features: whitening.apply(&self.features),
            label: self.label,
        }
    }
}

/// What the model makes of pictures, pruned as it is. The last of pictures that are the same stays alone. `done` is
/// told how many are done.
///
/// # Errors
///
/// Where a picture cannot be read, or the model's features of it are no numbers.
pub fn remember(
    model: &Model,
    pictures: impl Iterator<Item = Result<Picture, MemoryError>>,
    mut done: impl FnMut(usize),
) -> Result<Vec<Remembered>, MemoryError> {
    let mut found: Vec<Remembered> = Vec::new();
    let mut place_of: HashMap<String, usize> = HashMap::new();
    let mut pictures = pictures.peekable();
    let mut count = 0;
    while pictures.peek().is_some() {
        let batch: Vec<Picture> = pictures.by_ref().take(BATCH).collect::<Result<_, _>>()?;
        count += batch.len();
        for remembered in embed(model, batch)? {
            match place_of.get(&remembered.label.id) {
                Some(&place) => found[place] = remembered,
                None => {
                    place_of.insert(remembered.label.id.clone(), found.len());
                    found.push(remembered);
                }
            }
        }
        done(count);
    }
    Ok(found)
}

/// The images of a set, each with the class that `class_of` calls its own.
pub fn pictures<'a>(
    images: &'a ImageDataset,
    class_of: impl Fn(&str) -> String + 'a,
) -> impl Iterator<Item = Result<Picture, MemoryError>> + 'a {
    (0..images.len()).map(move |place| {
        Ok(Picture {
            image: images.image(place)?,
            class: class_of(&images.class_names()[images.label(place)]),
            source: images.name(place),
        })
    })
}

fn embed(model: &Model, pictures: Vec<Picture>) -> Result<Vec<Remembered>, MemoryError> {
    let images: Vec<RgbImage> = pictures
        .iter()
        .map(|picture| picture.image.clone())
        .collect();
    let output = model.forward(model.preprocess(&images));
    let has_classes = !model.class_names().is_empty();
    let computed = rows(output.features).into_iter().zip(rows(output.logits));
    let found = pictures.into_iter().zip(computed);
    let found = found.map(|(picture, (features, logits))| {
        let values = features.iter().chain(&logits);
        if let Some(value) = values.copied().find(|value| !value.is_finite()) {
            return Err(MemoryError::Image {
                source_name: picture.source,
                reason: format!(
                    "the model's features of it are {value}, expected finite numbers; compute in 32-bit floats \
                     (--dtype f32), or take other weights"
                ),
            });
        }
        Ok(Remembered {
            label: Label {
                id: picture_id(&picture.image),
                class: picture.class,
                source: picture.source,
            },
            features: features.to_vec(),
            logits: if has_classes { logits.to_vec() } else { Vec::new() },
        })
    });
    found.collect()
}

/// What a memory of these images says of itself: what is compared of features, and the agent.
///
/// The agent learns from every fifth image, as a memory of the others would answer it: the whitening makes the images that
/// it was learned from more similar than new ones are.
///
/// # Errors
///
/// Where the model's features of a generated picture are no numbers.
pub fn teach(model: &Model, remembered: &[Remembered], seed: u64) -> Result<About, MemoryError> {
    let width = model.pruning().config().hidden_size;
    let whitening = whitening(width, remembered.iter());
    let (held_out, kept): (Vec<usize>, Vec<usize>) =
        (0..remembered.len()).partition(|place| place % HELD_OUT == HELD_OUT - 1);
    let of = |places: Vec<usize>| places.into_iter().map(|place| &remembered[place]);
    let kept: Vec<&Remembered> = of(kept).collect();
    // Spread over all of them.
    let step = held_out.len().div_ceil(LESSONS).max(1);
    let taught: Vec<&Remembered> = of(held_out).step_by(step).collect();
    let dense = vit_flops(model.pruning().config(), &[], 0);
    let search = 2 * (remembered.len() * width) as u64 + whitening.flops();
    let (lessons, classes) = lessons(model, &kept, &taught, width);
    let judge = learn(&lessons, &classes, search as f64 / dense as f64, seed);
    About::new(model, whitening, judge)
}

fn whitening<'a>(width: usize, images: impl Iterator<Item = &'a Remembered>) -> Whitening {
    let images: Vec<(&str, &[f32])> = images
        .map(|one| (one.label.class.as_str(), one.features.as_slice()))
        .collect();
    Whitening::learn(width, &images)
}

/// What a memory of the `kept` images says of those that are `taught`; and all classes, the model's first, with how many of
/// the kept images each has.
fn lessons(
    model: &Model,
    kept: &[&Remembered],
    taught: &[&Remembered],
    width: usize,
) -> (Vec<Lesson>, Vec<(String, usize)>) {
    let mut classes: Vec<(String, usize)> = Vec::new();
    let mut place_of: HashMap<&str, usize> = HashMap::new();
    let own = model.class_names().iter().map(|name| (name.as_str(), 0));
    let kept_classes = kept.iter().map(|one| (one.label.class.as_str(), 1));
    let taught_classes = taught.iter().map(|one| (one.label.class.as_str(), 0));
    for (class, count) in own.chain(kept_classes).chain(taught_classes) {
        let place = *place_of.entry(class).or_insert(classes.len());
        if place == classes.len() {
            classes.push((class.to_string(), 0));
        }
        classes[place].1 += count;
    }
    let whitening = whitening(width, kept.iter().copied());
    let white = |one: &&Remembered| whitening.apply(&one.features);
    let rows: Vec<Vec<f32>> = kept.iter().map(white).collect();
    let index = Index::new(width, rows.iter().map(Vec::as_slice), &model.device());
    let mut lessons = Vec::with_capacity(taught.len());
    for batch in taught.chunks(BATCH) {
        let features: Vec<Vec<f32>> = batch.iter().map(white).collect();
        let found = index.nearest(&features, NEIGHBORS);
        for (one, neighbors) in batch.iter().zip(found) {
            let heard = neighbors.into_iter().map(|(place, similarity)| Heard {
                entry: place as u64,
                class: place_of[kept[place].label.class.as_str()],
                similarity,
            });
            lessons.push(Lesson {
                logits: one.logits.clone(),
                class: place_of[one.label.class.as_str()],
                neighbors: heard.collect(),
            });
        }
    }
    (lessons, classes)
}
