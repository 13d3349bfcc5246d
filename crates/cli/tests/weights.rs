//! Weights in and out, as people use them.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use common::{fixture, program, refused, stdout, text};

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

/// With a cache of its own, and deaf to the environment's proxy.
fn aptvit(cache: &Path, arguments: &[&str]) -> Output {
    let mut program = program();
    program.args(arguments).env("APT_CACHE", cache);
    program.env_remove("http_proxy").env_remove("HTTP_PROXY");
    program.output().unwrap()
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
    let message = refused(&aptvit(folder.path(), &["fetch", "vit-x"]));
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

#[test]
fn a_run_remembers_where_its_data_was() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("pictures");
    for (class, red) in [("a", 20), ("b", 220)] {
        for split in ["train", "test"] {
            let class = data.join(split).join(class);
            std::fs::create_dir_all(&class).unwrap();
            for number in 0..20 {
                let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([red, number, 0]));
                picture.save(class.join(format!("{number}.png"))).unwrap();
            }
        }
    }
    let config = folder.path().join("tiny.toml");
    let start = TINY.find("[data]").unwrap();
    let end = TINY.find("[model]").unwrap();
    let text_of = TINY.replace(&TINY[start..end], "[data]\nsource = \"folder\"\n");
    let sizes = "num_heads = 2\nimage_size = 16\nhidden_size = 16\nmlp_dim = 32";
    let text_of = text_of.replace("num_heads = 2", sizes);
    std::fs::write(&config, text_of).unwrap();
    // The data is named as seen from one folder, and found from another.
    let mut train = program();
    let options = [
        "train",
        "--config",
        "tiny.toml",
        "--out",
        "run",
        "--data",
        "pictures",
    ];
    let trained = train
        .args(options)
        .current_dir(folder.path())
        .output()
        .unwrap();
    stdout(&trained);
    let run = folder.path().join("run");
    let eval = stdout(&aptvit(
        folder.path(),
        &["eval", "--run", text(&run), "--json"],
    ));
    let eval: serde_json::Value = serde_json::from_str(&eval).unwrap();
    assert_eq!(eval["evaluations"][0]["images"], 40);
    stdout(&aptvit(folder.path(), &["train", "--resume", text(&run)]));
}
