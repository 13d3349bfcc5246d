//! A model that is served with a memory.

use apt_memory::{FileStore, Store};
use burn::tensor::Device;
use serde_json::Value;

use crate::common::{Running, remembering, testing::png, usual};

fn remember(server: &Running, options: &str, picture: &[u8]) -> (u16, Value) {
    let path = format!("/v1/models/tiny/memory{options}");
    let answer = server.post(&path, "image/png", picture);
    (answer.status, answer.json())
}

#[test]
fn a_picture_that_is_added_is_known_at_once_and_forgotten_when_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let server = remembering(folder.path());
    let [picture, other] = [png(40, 40), png(90, 33)];
    let result =
        |picture: &[u8]| server.classify("?explain=true", picture).json()["results"][0].clone();
    let alone = result(&picture);
    assert_eq!(alone["memory"]["share"], 0.0);
    assert_eq!(alone["classes"], alone["memory"]["alone"]);

    let (status, added) = remember(&server, "?class=wolf&source=zoo", &picture);
    assert_eq!(status, 200, "{added}");
    let id = added["ids"][0].as_str().unwrap().to_string();
    remember(&server, "?class=thing%202", &other);
    let known = result(&picture);
    assert_eq!(known["classes"][0]["class"], "wolf");
    assert!(known["classes"][0]["probability"].as_f64().unwrap() > 0.9);
    assert_eq!(known["memory"]["alone"], alone["classes"]);
    let spoke = &known["memory"]["neighbors"][0];
    assert_eq!(
        (&spoke["id"], &spoke["source"]),
        (&added["ids"][0], &"zoo".into())
    );
    assert!(known["flops"].as_u64() > alone["flops"].as_u64());
    assert_eq!(result(&other)["classes"][0]["class"], "thing 2");

    let held = server.get("/v1/models/tiny/memory").json();
    assert_eq!(
        (&held["entries"], &held["classes"]["wolf"]),
        (&2.into(), &1.into())
    );
    // The same picture with another class: its label was wrong.
    remember(&server, "?class=dog", &picture);
    assert_eq!(result(&picture)["classes"][0]["class"], "dog");

    let path = format!("/v1/models/tiny/memory?id={id}");
    let removed = server.send("DELETE", &path, &[], b"").json();
    assert_eq!(removed["removed"], 1);
    assert_ne!(result(&picture)["classes"][0]["class"], "dog");
    // What was added outlives the server.
    let path = folder.path().join("m.safetensors");
    let store = FileStore::open(&path, &Device::default()).unwrap();
    assert_eq!(store.counts().unwrap()["thing 2"], 1);
}

#[test]
fn what_cannot_be_remembered_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = remembering(folder.path());
    let picture = png(20, 20);
    for (options, picture, status) in [
        ("", &picture[..], 422),
        ("?class=", &picture, 422),
        ("?class=wolf&kind=2", &picture, 422),
        ("?class=wolf", b"no picture", 415),
    ] {
        let (found, said) = remember(&server, options, picture);
        assert_eq!(found, status, "{options}: {said}");
    }
    for options in ["", "?id=a&class=b"] {
        let path = format!("/v1/models/tiny/memory{options}");
        assert_eq!(server.send("DELETE", &path, &[], b"").status, 422);
    }
    let held = server.get("/v1/models/tiny/memory").json();
    assert_eq!(held["entries"], 0);
    let without = usual();
    let answer = without.get("/v1/models/tiny/memory");
    assert_eq!(answer.status, 404);
    assert!(
        answer.text().contains("without a memory"),
        "{}",
        answer.text()
    );
    let plain = without.classify("", &picture).json();
    assert!(plain["results"][0].get("memory").is_none());
}
