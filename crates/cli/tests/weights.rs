//! Weights in and out, as people use them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TINY: &str = r#"
seed = 3
[data]
source = "shapes"
size = 16
train = 60
test = 20
[model]
preset = "vit-tiny32"
num_heads = 2
[agents]
layers = [0]
[train]
steps = 2
batch_size = 6
steps_per_epoch = 2
held_out = 20
[optimizer]
learning_rate = 0.01
"#;

fn aptvit(cache: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aptvit"))
        .args(arguments)
        .env("APT_CACHE", cache)
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refusal(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../vit-model/tests/fixtures")
        .join(name)
}

/// Sends the file to one client after the other, the first one but a half.
fn serve(file: &Path) -> String {
    let content = std::fs::read(file).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut sent = content.len() / 2;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let lines: Vec<String> = lines
                .map(|line| line.unwrap_or_default().to_ascii_lowercase())
                .take_while(|line| !line.is_empty())
                .collect();
            let range = lines
                .iter()
                .find_map(|line| line.strip_prefix("range: bytes="));
            let start = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
            let rest = &content[start..];
            let status = if start > 0 {
                "206 Partial Content"
            } else {
                "200 OK"
            };
            let total = content.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\
                 Content-Range: bytes {start}-{}/{total}\r\n\r\n",
                rest.len(),
                total - 1
            )
            .unwrap();
            // A client may hang up.
            let _ = stream.write_all(&rest[..sent.min(rest.len())]);
            sent = total;
        }
    });
    format!("http://{address}/weights/model.safetensors?download=true")
}

#[test]
fn weights_are_fetched_through_a_cut_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let url = serve(&fixture("timm-vit/model.safetensors"));
    let path = stdout(&aptvit(&cache, &["fetch", &url]));
    let path = path.trim();
    assert_eq!(
        std::fs::read(path).unwrap(),
        std::fs::read(fixture("timm-vit/model.safetensors")).unwrap()
    );
    let json = stdout(&aptvit(&cache, &["fetch", &url, "--json"]));
    assert!(json.contains(path), "{json}");
    let info = stdout(&aptvit(&cache, &["info", path]));
    assert!(info.contains("timm"), "{info}");
}

#[test]
fn what_can_be_fetched_is_listed_with_sizes_and_licences() {
    let folder = tempfile::tempdir().unwrap();
    let list = stdout(&aptvit(folder.path(), &["fetch"]));
    for word in [
        "cifar10",
        "vit-b16-in21k",
        "dinov2-s14",
        "Apache-2.0",
        "413",
    ] {
        assert!(list.contains(word), "{list}");
    }
    let json = stdout(&aptvit(folder.path(), &["fetch", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["checkpoints"].as_array().unwrap().len() > 5);
    let message = refusal(&aptvit(folder.path(), &["fetch", "vit-x"]));
    assert!(
        message.contains("'vit-x'") && message.contains("aptvit fetch"),
        "{message}"
    );
}

#[test]
fn a_fine_tuned_model_is_exported_with_its_agents() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tiny.toml");
    let pretrained = fixture("timm-vit/model.safetensors");
    let set = format!("model.pretrained={}", text(&pretrained));
    std::fs::write(&config, TINY).unwrap();
    let run = folder.path().join("run");
    let train = [
        "train",
        "--config",
        text(&config),
        "--out",
        text(&run),
        "--set",
        &set,
    ];
    stdout(&aptvit(folder.path(), &train));
    for (naming, names) in [("timm", "timm"), ("hugging-face", "Hugging Face ViT")] {
        let out = folder.path().join(naming);
        let export = [
            "export",
            "--run",
            text(&run),
            "--out",
            text(&out),
            "--naming",
            naming,
        ];
        stdout(&aptvit(folder.path(), &export));
        for file in [
            "model.safetensors",
            "config.json",
            "agents.safetensors",
            "aptvit.json",
        ] {
            assert!(out.join(file).is_file(), "{file}");
        }
        let info = stdout(&aptvit(folder.path(), &["info", "--json", text(&out)]));
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["naming"], names);
        assert_eq!(info["classes"], 10);
        assert_eq!(info["config"]["num_heads"], 2);
        assert_eq!(info["heads_are_guessed"], false);
    }
}
