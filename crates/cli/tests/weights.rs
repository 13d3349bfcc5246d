//! Weights in and out, as people use them.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use common::{fixture, program, refused, stdout, text};

const TINY: &str = r#"
policy = { name = "apt", layers = [0] }
seed = 3
[data]
source = "shapes"
size = 16
train = 60
test = 20
[input]
val_images = 20
[model]
preset = "vit-tiny32"
num_heads = 2
[train]
steps = 2
batch_size = 6
eval_interval = 2
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
            "policy.safetensors",
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
fn an_exported_folder_is_enough_to_run_the_pruned_model_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tiny.toml");
    std::fs::write(&config, TINY).unwrap();
    let picture = folder.path().join("cat.png");
    image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 5, y as u8 * 5, 99]))
        .save(&picture)
        .unwrap();
    let known = apt_pruning_agent::policies().into_iter();
    for entry in known.filter(|entry| !entry.for_frozen) {
        let name = entry.name;
        let run = folder.path().join(name);
        let mut train = vec!["train", "--config", text(&config), "--out", text(&run)];
        let policy = format!("policy={name}");
        train.extend(["--set", &policy]);
        if entry.budget == apt_pruning_agent::BudgetUse::Needed {
            train.extend(["--set", "flops=[0.8]"]);
        }
        stdout(&aptvit(folder.path(), &train));
        let exported = folder.path().join(format!("{name}-exported"));
        let export = ["export", "--run", text(&run), "--out", text(&exported)];
        stdout(&aptvit(folder.path(), &export));
        let infer = |path: &Path| {
            let infer = [
                "infer",
                "--run",
                text(path),
                text(&picture),
                "--json",
                "--top",
                "10",
            ];
            let answer = stdout(&aptvit(folder.path(), &infer));
            serde_json::from_str::<serde_json::Value>(&answer).unwrap()
        };
        assert_eq!(infer(&run), infer(&exported), "{name}");
        if name != "dense" {
            // Fewer tokens are left, but for a threshold that removes none.
            let layers = infer(&exported)[0]["tokens_per_layer"]
                .as_array()
                .unwrap()
                .len();
            assert!(layers > 0, "{name}");
        }
    }
    // Its policy's weights cannot be left out.
    let exported = folder.path().join("pairs-exported");
    std::fs::remove_file(exported.join("policy.safetensors")).unwrap();
    let refused = aptvit(
        folder.path(),
        &["infer", "--run", text(&exported), text(&picture)],
    );
    assert!(common::refused(&refused).contains("policy.safetensors"));
}

#[test]
fn images_are_compared_with_the_model_by_the_names_of_their_classes() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tiny.toml");
    std::fs::write(&config, TINY).unwrap();
    let run = folder.path().join("run");
    let train = ["train", "--config", text(&config), "--out", text(&run)];
    let dense = ["--set", "policy=dense"];
    stdout(&aptvit(folder.path(), &[&train[..], &dense].concat()));
    let data = |name: &str, classes: [&str; 2]| {
        for (class, red) in classes.into_iter().zip([20, 220]) {
            let class = folder.path().join(name).join(class);
            std::fs::create_dir_all(&class).unwrap();
            let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([red, 3, 0]));
            picture.save(class.join("1.png")).unwrap();
        }
        folder.path().join(name)
    };
    let known = data("known", ["ring", "circle"]);
    let eval = |path: &Path| {
        let eval = ["eval", "--run", text(&run), "--json", "--data", text(path)];
        aptvit(folder.path(), &eval)
    };
    let answer = stdout(&eval(&known));
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["images"], 2);
    for class in answer["evaluations"][0]["per_class"].as_array().unwrap() {
        let images = ["ring", "circle"].contains(&class["class"].as_str().unwrap());
        assert_eq!(class["images"], u64::from(images), "{class}");
    }
    let unknown = refused(&eval(&data("unknown", ["ring", "cat"])));
    assert!(
        unknown.contains("cat") && unknown.contains("circle"),
        "{unknown}"
    );
    // Its own names help who has others.
    let names = folder.path().join("names.txt");
    let mine: Vec<String> = (0..10)
        .map(|class| format!("n{class}\tcat{class}\n"))
        .collect();
    std::fs::write(&names, mine.concat()).unwrap();
    let named = data("named", ["n3", "cat1"]);
    let eval = [
        "eval",
        "--run",
        text(&run),
        "--data",
        text(&named),
        "--classes",
        text(&names),
    ];
    let table = stdout(&aptvit(folder.path(), &eval));
    assert!(table.contains("cat3") && !table.contains("cat4"), "{table}");
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
    let text_of = TINY.replace(
        &TINY[start..end],
        "[data]\nsource = \"folder\"\n[input]\nval_images = 20\n",
    );
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
