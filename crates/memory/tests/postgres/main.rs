//! A memory in a real PostgreSQL server with pgvector, which this test starts.
//!
//! It looks for the server's programs in `POSTGRES_BIN`, in `target/postgres` (`pip install --target target/postgres
//! pgserver==0.1.4` puts them there), and where Debian puts them. Where there is none with pgvector, the test is skipped.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod server;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use apt_memory::{About, Held, PostgresStore, Recall, Store, Which, Whitening, open};
use burn::tensor::Device;
use common::{about, colored, credulous, entries, entry, remembered, tiny_model};
use libtest_mimic::{Arguments, Failed, Trial};
use server::{Programs, Server};

type Test = fn(&Server);

const TESTS: [(&str, Test); 5] = [
    (
        "two_programs_see_each_others_changes_at_once",
        two_programs_see_each_others_changes_at_once,
    ),
    (
        "the_nearest_entries_are_found",
        the_nearest_entries_are_found,
    ),
    (
        "a_memory_is_replaced_only_where_that_is_said",
        a_memory_is_replaced_only_where_that_is_said,
    ),
    (
        "while_the_database_is_away_the_model_answers_alone",
        while_the_database_is_away_the_model_answers_alone,
    ),
    (
        "a_memory_whose_database_was_away_at_first_is_asked_when_it_is_there",
        a_memory_whose_database_was_away_at_first_is_asked_when_it_is_there,
    ),
];

fn main() -> ExitCode {
    let programs = Programs::find();
    let trials = TESTS.map(|(name, test)| match &programs {
        Ok(programs) => {
            let programs = programs.clone();
            Trial::test(name, move || run(test, &programs))
        }
        Err(missing) => Trial::test(name, || Ok(()))
            .with_ignored_flag(true)
            .with_kind(format!("skipped: {missing}")),
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn run(test: Test, programs: &Programs) -> Result<(), Failed> {
    test(&Server::start(programs)?);
    Ok(())
}

fn classes(store: &dyn Store) -> Vec<String> {
    let labels = store.list().unwrap().into_iter();
    labels
        .map(|label| format!("{} {}", label.id, label.class))
        .collect()
}

fn two_programs_see_each_others_changes_at_once(server: &Server) {
    let address = server.address("pets");
    let error = PostgresStore::open(&address).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("aptvit memory build"), "{error}");
    let first = entry("a", "cat", [1.0, 0.0, 0.0, 0.0]);
    let mut one = PostgresStore::create(&address, about(), &[first], false).unwrap();
    let mut other = PostgresStore::open(&address).unwrap();
    assert_eq!(other.about(), one.about());
    other
        .add(vec![entry("b", "dog", [0.0, 1.0, 0.0, 0.0])])
        .unwrap();
    assert_eq!(classes(&one), ["a cat", "b dog"]);
    let near = one.nearest(&[vec![0.0, 2.0, 0.1, 0.0]], 1).unwrap();
    assert_eq!(near[0][0].label.class, "dog");
    // A label is corrected by adding the picture again.
    one.add(vec![entry("b", "wolf", [0.0, 1.0, 0.0, 0.0])])
        .unwrap();
    assert_eq!(classes(&other), ["a cat", "b wolf"]);
    assert_eq!(other.remove(&Which::Class("cat".into())).unwrap(), 1);
    assert_eq!(one.remove(&Which::Ids(vec!["x".into()])).unwrap(), 0);
    assert_eq!(classes(&one), ["b wolf"]);
    // Another memory of the same database is another one.
    let other = PostgresStore::create(&server.address("cars"), about(), &[], false).unwrap();
    assert!(classes(&other).is_empty());
}

fn the_nearest_entries_are_found(server: &Server) {
    let angle = |number: usize| number as f32 / 100.0;
    let entries: Vec<_> = (0..100)
        .map(|number| {
            let features = [angle(number).cos(), angle(number).sin(), 0.0, 0.0];
            entry(&format!("{number:03}"), "cat", features)
        })
        .collect();
    let store = PostgresStore::create(&server.address("pets"), about(), &entries, false).unwrap();
    let queries = [20, 60].map(|number| vec![angle(number).cos(), angle(number).sin(), 0.0, 0.0]);
    let found = store.nearest(&queries, 3).unwrap();
    for (found, nearest) in found.iter().zip(["020", "060"]) {
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].label.id, nearest);
        assert!((found[0].similarity - 1.0).abs() < 1e-5);
        assert!(found[2].similarity < found[0].similarity);
    }
    // As many as an agent looks at when it learns.
    assert_eq!(store.nearest(&queries[..1], 90).unwrap()[0].len(), 90);
}

fn a_memory_is_replaced_only_where_that_is_said(server: &Server) {
    let address = server.address("pets");
    let entries = [entry("a", "cat", [1.0, 0.0, 0.0, 0.0])];
    PostgresStore::create(&address, about(), &entries, false).unwrap();
    let again = PostgresStore::create(&address, about(), &[], false).map(|_| ());
    assert!(again.unwrap_err().to_string().contains("--replace"));
    let store = PostgresStore::open(&address).unwrap();
    assert_eq!(classes(&store), ["a cat"]);
    PostgresStore::create(&address, about(), &[], true).unwrap();
    assert!(classes(&store).is_empty());
    // With another agent: who opened the old one does not compare its features with those of the new one.
    let mut other = about();
    other.judge = credulous();
    PostgresStore::create(&address, other, &[], true).unwrap();
    assert!(store.nearest(&[vec![1.0; 4]], 1).is_err());
    assert!(classes(&PostgresStore::open(&address).unwrap()).is_empty());
}

fn while_the_database_is_away_the_model_answers_alone(server: &Server) {
    let model = tiny_model(1);
    let none = Whitening::none(model.description().model.hidden_size);
    let about = About::new(&model, none, credulous()).unwrap();
    let red = [220, 30, 30];
    let entries = entries(&model, &[(red, "fire")]);
    let address = server.address("colours");
    let store = PostgresStore::create(&address, about, &entries, false).unwrap();
    let recall = Recall::new(model, Box::new(store)).unwrap();
    let answer = || recall.classify(&[colored(red)], 1).remove(0).unwrap();
    assert_eq!(answer().answer.classes[0].class, "fire");
    server.stop();
    let begun = Instant::now();
    let alone = answer();
    assert_eq!(alone.answer.classes, alone.lookup.alone);
    assert!(alone.lookup.failure.is_some());
    assert!(begun.elapsed() < Duration::from_secs(5));
    // It does not wait for the database with each image.
    let begun = Instant::now();
    let alone = answer();
    assert!(
        alone
            .lookup
            .failure
            .unwrap()
            .contains("the database is away")
    );
    assert!(begun.elapsed() < Duration::from_secs(1));
    server.start_again();
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(answer().answer.classes[0].class, "fire");
}

fn a_memory_whose_database_was_away_at_first_is_asked_when_it_is_there(server: &Server) {
    let model = tiny_model(1);
    let none = Whitening::none(model.description().model.hidden_size);
    let about = About::new(&model, none, credulous()).unwrap();
    let [red, blue] = [[220, 30, 30], [20, 40, 200]];
    let entries = entries(&model, &[(red, "fire")]);
    let address = server.address("colours");
    let missing = open(&address, &Device::default()).map(|_| ());
    assert!(!missing.unwrap_err().is_away());
    PostgresStore::create(&address, about, &entries, false).unwrap();
    server.stop();
    let away = open(&address, &Device::default()).map(|_| ());
    assert!(away.unwrap_err().is_away());
    let mut recall = Recall::holding(model.clone(), Held::later(&address)).unwrap();
    let alone = recall.classify(&[colored(red)], 1).remove(0).unwrap();
    assert_eq!(alone.answer.classes, alone.lookup.alone);
    assert!(alone.lookup.failure.unwrap().contains("is away"));
    assert!(
        recall
            .remove(&Which::Class("fire".into()))
            .unwrap_err()
            .is_away()
    );
    server.start_again();
    std::thread::sleep(Duration::from_millis(2100));
    let found = recall.classify(&[colored(red)], 1).remove(0).unwrap();
    assert_eq!(found.answer.classes[0].class, "fire");
    assert_eq!(found.lookup.failure, None);
    recall.add(remembered(&model, &[(blue, "water")])).unwrap();
    assert_eq!(recall.store().unwrap().counts().unwrap()["water"], 1);
    // One that was built with another model is not believed.
    let other = Recall::holding(tiny_model(2), Held::later(&address)).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    let alone = other.classify(&[colored(red)], 1).remove(0).unwrap();
    assert!(alone.lookup.failure.unwrap().contains("another model"));
}
