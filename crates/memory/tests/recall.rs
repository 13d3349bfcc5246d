//! A model and its memory.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_inference::Model;
use apt_memory::{
    About, ClassCounts, Entry, FileStore, Judge, Label, MemoryError, Neighbor, Recall, Recalled,
    Store, Which, Whitening, teach,
};
use burn::tensor::{Device, Tensor};
use common::{colored, credulous, entries, remembered, tiny_model};
use tempfile::TempDir;

const RED: [u8; 3] = [220, 30, 30];
const BLUE: [u8; 3] = [30, 30, 220];

fn none(model: &Model) -> Whitening {
    Whitening::none(model.description().model.hidden_size)
}

/// A model and a memory whose file is in the folder.
fn recall(model: &Model, judge: Judge, entries: Vec<Entry>) -> (Recall, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let about = About::new(model, none(model), judge).unwrap();
    let path = folder.path().join("m.safetensors");
    let store = FileStore::create(&path, about, entries, &Device::default()).unwrap();
    let recall = Recall::new(model.clone(), Box::new(store)).unwrap();
    (recall, folder)
}

#[test]
fn a_class_that_the_model_does_not_know_is_answered_from_a_few_images() {
    let model = tiny_model(1);
    let known = entries(
        &model,
        &[(RED, "fire"), ([210, 40, 20], "fire"), (BLUE, "thing 3")],
    );
    let judge = Judge {
        neighbors: 1,
        ..credulous()
    };
    let (recall, _folder) = recall(&model, judge, known);
    let images = [colored([215, 35, 35]), colored([35, 30, 215])];
    let alone = model.classify(&images, 20);
    for ((recalled, alone), expected) in recall
        .classify(&images, 20)
        .into_iter()
        .zip(alone)
        .zip(["fire", "thing 3"])
    {
        let (recalled, alone) = (recalled.unwrap(), alone.unwrap());
        assert_eq!(recalled.answer.classes[0].class, expected);
        assert_eq!(recalled.lookup.alone, alone.classes);
        assert_eq!(recalled.lookup.neighbors[0].label.class, expected);
        assert!(recalled.lookup.neighbors[0].similarity > 0.9);
        assert!(recalled.lookup.share.unwrap() > 0.9);
        let sum: f32 = recalled
            .answer
            .classes
            .iter()
            .map(|class| class.probability)
            .sum();
        assert!((sum - 1.0).abs() < 1e-4);
        assert_eq!(recalled.answer.flops, alone.flops + 2 * 3 * 64 + 64 * 65);
        assert!(recalled.answer.flops_share > alone.flops_share);
    }
    // Behind the model's classes.
    let fire = recall.classify(&images[..1], 1).remove(0).unwrap();
    assert_eq!(fire.answer.classes[0].index, model.class_names().len());
}

#[test]
fn an_agent_that_does_not_ask_leaves_the_answer_as_it_is() {
    let model = tiny_model(1);
    let mut judge = credulous();
    judge.ask[0] = -20.0;
    let (recall, _folder) = recall(&model, judge, entries(&model, &[(RED, "fire")]));
    let images = [colored(RED)];
    let recalled = recall.classify(&images, 3).remove(0).unwrap();
    assert_eq!(
        recalled.answer,
        model.classify(&images, 3).remove(0).unwrap()
    );
    assert_eq!(
        (recalled.lookup.share, recalled.lookup.neighbors.len()),
        (None, 0)
    );
    assert_eq!(recalled.lookup.failure, None);
}

#[test]
fn a_label_that_was_corrected_holds_for_its_picture_whatever_the_agent_believes() {
    let model = tiny_model(1);
    let mut judge = credulous();
    judge.trust[0] = -20.0;
    let known = entries(&model, &[(RED, "fire"), (BLUE, "water")]);
    let (mut recall, _folder) = recall(&model, judge, known);
    let first = |recall: &Recall, color| {
        let found = recall.classify(&[colored(color)], 1).remove(0).unwrap();
        found.answer.classes[0].class.clone()
    };
    assert_eq!(first(&recall, RED), "fire");
    recall.add(remembered(&model, &[(RED, "rose")])).unwrap();
    assert_eq!(first(&recall, RED), "rose");
    assert_eq!(recall.remove(&Which::Class("rose".into())).unwrap(), 1);
    assert_ne!(first(&recall, RED), "rose");
}

#[test]
fn an_empty_memory_says_nothing() {
    let model = tiny_model(1);
    let (recall, _folder) = recall(&model, credulous(), Vec::new());
    let recalled = recall.classify(&[colored(RED)], 3).remove(0).unwrap();
    assert_eq!(recalled.lookup.share, Some(0.0));
    assert_eq!(recalled.answer.classes, recalled.lookup.alone);
}

#[test]
fn a_memory_knows_its_model_again_pruned_or_not() {
    let model = tiny_model(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let device = Device::default();
    let about = About::new(&model, none(&model), Judge::default()).unwrap();
    FileStore::create(&path, about, Vec::new(), &device).unwrap();
    let store = || Box::new(FileStore::open(&path, &device).unwrap());
    let mut pruned = model.clone();
    pruned.prune_to(0.5).unwrap();
    Recall::new(pruned, store()).unwrap();
    let error = Recall::new(tiny_model(2), store()).map(|_| ()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("another model"), "{error}");
}

#[test]
fn an_image_that_is_no_number_does_not_cost_the_others_their_memory() {
    let model = tiny_model(1);
    let known = entries(&model, &[(RED, "fire"), (BLUE, "water")]);
    let (recall, _folder) = recall(&model, credulous(), known);
    let sound = model.preprocess(&[colored(RED), colored(BLUE)]);
    let broken = Tensor::<4>::full([1, 3, 32, 32], f32::NAN, &model.device());
    let [red, blue] = [0, 1].map(|image| sound.clone().narrow(0, image, 1));
    let images = Tensor::cat(vec![red, broken, blue], 0);
    let found = recall.answers(model.forward(images), 1);
    assert!(found[1].is_err());
    for (place, class) in [(0, "fire"), (2, "water")] {
        let recalled = found[place].as_ref().unwrap();
        assert_eq!(recalled.answer.classes[0].class, class);
        assert_eq!(recalled.lookup.neighbors[0].label.class, class);
    }
}

/// A memory that cannot be reached.
struct Away(About);

impl Store for Away {
    fn about(&self) -> &About {
        &self.0
    }
    fn add(&mut self, _: Vec<Entry>) -> Result<(), MemoryError> {
        Err(away())
    }
    fn remove(&mut self, _: &Which) -> Result<usize, MemoryError> {
        Err(away())
    }
    fn list(&self) -> Result<Vec<Label>, MemoryError> {
        Err(away())
    }
    fn counts(&self) -> Result<ClassCounts, MemoryError> {
        Err(away())
    }
    fn search_flops(&self) -> u64 {
        0
    }
    fn nearest(&self, _: &[Vec<f32>], _: usize) -> Result<Vec<Vec<Neighbor>>, MemoryError> {
        Err(away())
    }
}

fn away() -> MemoryError {
    MemoryError::Database {
        address: "postgres://db/x#pets".into(),
        reason: "the database is away".into(),
    }
}

#[test]
fn where_the_memory_is_away_the_model_answers_alone_and_says_so() {
    let model = tiny_model(1);
    let about = About::new(&model, none(&model), credulous()).unwrap();
    let recall = Recall::new(model.clone(), Box::new(Away(about))).unwrap();
    let images = [colored(RED), colored(BLUE)];
    let alone = model.classify(&images, 3);
    for (recalled, alone) in recall.classify(&images, 3).into_iter().zip(alone) {
        let recalled = recalled.unwrap();
        assert_eq!(recalled.answer, alone.unwrap());
        assert!(
            recalled
                .lookup
                .failure
                .unwrap()
                .contains("the database is away")
        );
    }
}

#[test]
fn a_memory_that_was_built_answers_what_it_was_built_of() {
    built_and_asked(&tiny_model(1));
}

#[test]
fn a_model_without_a_head_answers_by_its_memory_alone() {
    let weights = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../vit-model/tests/fixtures/hf-dinov2"
    );
    let model = Model::open(weights.as_ref(), &Device::default()).unwrap();
    for recalled in built_and_asked(&model) {
        assert_eq!(recalled.lookup.share, Some(1.0));
        assert!(recalled.lookup.alone.is_empty());
    }
}

/// Builds a memory of two colours and asks for them. The model's random classes are none of these: the agent learns to ask,
/// and to believe what it hears.
fn built_and_asked(model: &Model) -> Vec<Recalled> {
    let colors = |image: u8| [[200 + image, 20, 30], [30, 20, 200 + image]];
    let pictures: Vec<([u8; 3], &str)> = (0..20)
        .flat_map(|image| colors(image).into_iter().zip(["fire", "water"]))
        .collect();
    let remembered = remembered(model, &pictures);
    let about = teach(model, &remembered, 1).unwrap();
    assert_eq!(about, teach(model, &remembered, 1).unwrap());
    let entries = remembered
        .into_iter()
        .map(|one| one.entry(&about.whitening));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let store = FileStore::create(&path, about.clone(), entries.collect(), &Device::default());
    let recall = Recall::new(model.clone(), Box::new(store.unwrap())).unwrap();
    let answer = |(color, class): ([u8; 3], &str)| {
        let recalled = recall.classify(&[colored(color)], 1).remove(0).unwrap();
        assert_eq!(recalled.answer.classes[0].class, class);
        recalled
    };
    let asked = colors(25).into_iter().zip(["fire", "water"]);
    asked.map(answer).collect()
}
