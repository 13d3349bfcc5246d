//! A memory in a file.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::Path;

use apt_memory::{Entry, FileStore, Store, Which, create, open};
use burn::tensor::Device;
use common::{about, credulous, entry};

fn store(path: &Path, entries: Vec<Entry>) -> FileStore {
    FileStore::create(path, about(), entries, &Device::default()).unwrap()
}

fn classes(store: &dyn Store) -> Vec<String> {
    let labels = store.list().unwrap().into_iter();
    labels
        .map(|label| format!("{} {}", label.id, label.class))
        .collect()
}

fn three() -> Vec<Entry> {
    vec![
        entry("a", "cat", [1.0, 0.0, 0.0, 0.0]),
        entry("b", "dog", [0.0, 1.0, 0.0, 0.0]),
        entry("c", "cat", [0.0, 0.0, 3.0, 0.0]),
    ]
}

#[test]
fn what_was_written_is_read_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    store(&path, three());
    let store = FileStore::open(&path, &Device::default()).unwrap();
    assert_eq!(classes(&store), ["a cat", "c cat", "b dog"]);
    assert_eq!(store.about(), &about());
    assert_eq!(store.search_flops(), 2 * 3 * 4);
    let near = store.nearest(&[vec![0.1, 0.0, 2.0, 0.0]], 2).unwrap();
    let ids: Vec<&str> = near[0].iter().map(|near| near.label.id.as_str()).collect();
    assert_eq!(ids, ["c", "a"]);
    assert!((near[0][0].similarity - 0.9988).abs() < 1e-3);
}

#[test]
fn the_same_picture_again_corrects_its_label() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut store = store(&path, three());
    store
        .add(vec![entry("b", "cat", [0.0, 1.0, 0.0, 0.0])])
        .unwrap();
    assert_eq!(classes(&store), ["a cat", "b cat", "c cat"]);
}

#[test]
fn entries_go_by_id_by_class_and_by_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let left = |which: Which| {
        let mut store = store(&path, three());
        let removed = store.remove(&which).unwrap();
        let left = classes(&FileStore::open(&path, &Device::default()).unwrap());
        assert_eq!(removed + left.len(), 3);
        left
    };
    assert_eq!(
        left(Which::Ids(vec!["a".into(), "x".into()])),
        ["c cat", "b dog"]
    );
    assert_eq!(left(Which::Class("cat".into())), ["b dog"]);
    assert_eq!(left(Which::Source("b.png".into())), ["a cat", "c cat"]);
    assert_eq!(left(Which::Class("cow".into())).len(), 3);
}

#[test]
fn what_was_opened_before_a_memory_was_built_anew_is_not_mixed_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut old = store(&path, three());
    let mut other = about();
    other.judge = credulous();
    FileStore::create(&path, other, Vec::new(), &Device::default()).unwrap();
    let error = old.add(three()).unwrap_err().to_string();
    assert!(error.contains("built anew"), "{error}");
    let new = FileStore::open(&path, &Device::default()).unwrap();
    assert!(classes(&new).is_empty());
}

#[test]
fn programs_that_add_to_one_file_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    store(&path, Vec::new());
    std::thread::scope(|scope| {
        for program in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut store = FileStore::open(path, &Device::default()).unwrap();
                for number in 0..5 {
                    let id = format!("{program}{number}");
                    store
                        .add(vec![entry(&id, "cat", [1.0, 0.0, 0.0, 0.0])])
                        .unwrap();
                }
            });
        }
    });
    let store = FileStore::open(&path, &Device::default()).unwrap();
    assert_eq!(store.list().unwrap().len(), 20);
}

#[test]
fn a_damaged_file_is_refused_by_name_wherever_the_damage_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    store(&path, three());
    let whole = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = FileStore::open(&path, &Device::default()).map(|_| ());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("m.safetensors"), "{error}");
    };
    for place in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        refused(&bytes);
        refused(&whole[..place]);
    }
    refused(b"");
    std::fs::write(&path, &whole).unwrap();
    assert!(FileStore::open(&path, &Device::default()).is_ok());
}

#[test]
fn a_memory_that_is_there_is_replaced_only_where_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let address = path.to_str().unwrap();
    let device = Device::default();
    let error = open(address, &device).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("aptvit memory build"), "{error}");
    create(address, about(), three(), false, &device).unwrap();
    let again = create(address, about(), Vec::new(), false, &device).map(|_| ());
    assert!(again.unwrap_err().to_string().contains("--replace"));
    assert_eq!(open(address, &device).unwrap().list().unwrap().len(), 3);
    create(address, about(), Vec::new(), true, &device).unwrap();
    assert!(open(address, &device).unwrap().list().unwrap().is_empty());
}
