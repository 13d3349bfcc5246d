//! Pictures of every kind, bad ones among them, and pages that servers send instead of files.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use common::{TINY, aptvit, fixture, program, refusal, refused, stdout, text, tiny_of_a_folder};
use serde_json::Value;

/// A trained run in `folder`.
fn trained(folder: &Path) -> PathBuf {
    let config = folder.join("tiny.toml");
    std::fs::write(&config, TINY).unwrap();
    let run = folder.join("run");
    let train = ["train", "--config", text(&config), "--out", text(&run)];
    stdout(&aptvit(&train));
    run
}

/// Saves a picture, in the format that its name says.
fn save(path: &Path, tone: u8) {
    image::RgbImage::from_fn(90, 80, |x, y| image::Rgb([x as u8, y as u8, tone]))
        .save(path)
        .unwrap();
}

/// Keeps a tenth of a file.
fn cut(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 10]).unwrap();
}

/// The answer in JSON, also of a program that ends with an error.
fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_folder_gives_all_its_answers_and_then_names_the_bad_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let pictures = folder.path().join("pictures");
    std::fs::create_dir_all(pictures.join("more")).unwrap();
    let good = ["a.png", "c.webp", "d.bmp", "e.gif", "more/f.jpg"];
    for name in good {
        save(&pictures.join(name), 90);
    }
    let infer = ["infer", "--run", text(&run), text(&pictures)];
    let answers = stdout(&aptvit(&infer));
    for name in good {
        assert!(answers.contains(name), "{name}: {answers}");
    }

    save(&pictures.join("b.jpg"), 90);
    let bytes = std::fs::read(pictures.join("b.jpg")).unwrap();
    std::fs::write(pictures.join("b.jpg"), &bytes[..bytes.len() * 9 / 10]).unwrap();
    std::fs::write(pictures.join("empty.png"), []).unwrap();
    let output = aptvit(&infer);
    let message = refused(&output);
    assert!(
        message.contains("2 of 7 pictures could not be read"),
        "{message}"
    );
    assert!(
        message.contains("b.jpg is cut off") && message.contains("empty.png"),
        "{message}"
    );
    let answers = String::from_utf8_lossy(&output.stdout);
    for name in good {
        assert!(answers.contains(name), "{name}: {answers}");
    }

    let output = aptvit(&[&infer[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let entries = json(&output);
    let entries = entries.as_array().unwrap();
    assert_eq!(entries.len(), 7);
    for entry in entries {
        let name = entry["image"].as_str().unwrap();
        let is_bad = name.ends_with("b.jpg") || name.ends_with("empty.png");
        assert_eq!(entry["error"].is_string(), is_bad, "{entry}");
        assert_eq!(entry["classes"].is_array(), !is_bad, "{entry}");
    }
}

#[test]
fn a_jpeg_that_is_cut_has_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    for name in ["a.jpg", "a.png", "a.webp", "a.bmp", "a.gif"] {
        let path = folder.path().join(name);
        save(&path, 20);
        cut(&path);
        let message = refusal(&["infer", "--run", text(&run), text(&path)]);
        assert!(message.contains(name), "{message}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn pipes_devices_and_files_of_the_kernel_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let pipe = folder.path().join("pipe.png");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for (path, word) in [
        (text(&pipe), "a named pipe"),
        ("/dev/zero", "a device"),
        ("/proc/self/maps", "it is empty"),
    ] {
        let message = refusal(&["infer", "--run", text(&run), path]);
        assert!(message.contains(word), "{message}");
    }
    for path in [text(&pipe), "/dev/zero"] {
        let message = refusal(&["eval", "--run", text(&run), "--data", path]);
        assert!(message.contains("expected a plain file"), "{message}");
    }
}

#[test]
fn a_training_stops_at_bad_pictures_or_goes_on_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("pets");
    for class in ["cat", "dog"] {
        let class = data.join("train").join(class);
        std::fs::create_dir_all(&class).unwrap();
        for number in 0..20 {
            save(&class.join(format!("{number}.png")), number * 9);
        }
        save(&class.join("cut.jpg"), 9);
        cut(&class.join("cut.jpg"));
    }
    let config = folder.path().join("own.toml");
    std::fs::write(&config, tiny_of_a_folder(6)).unwrap();
    let out = folder.path().join("run");
    let train = [
        "train",
        "--config",
        text(&config),
        "--data",
        text(&data),
        "--out",
        text(&out),
    ];
    let message = refusal(&train);
    assert!(
        message.contains("2 of 42 images") && message.contains("cat/cut.jpg"),
        "{message}"
    );
    assert!(message.contains("on_bad"), "{message}");

    let output = aptvit(&[&train[..], &["--set", "input.on_bad=skip"]].concat());
    stdout(&output);
    let warning = common::stderr(&output);
    assert!(warning.contains("left out 2 of 42 images"), "{warning}");
    assert!(warning.contains("dog/cut.jpg"), "{warning}");
}

#[test]
fn a_page_that_is_sent_instead_of_weights_is_not_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://{}/model.safetensors",
        listener.local_addr().unwrap()
    );
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let page = "<!DOCTYPE html><html>Log in</html>";
        let length = page.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let _ = stream.write_all(format!("{head}{page}").as_bytes());
    });
    let cache = tempfile::tempdir().unwrap();
    let output = program()
        .args(["fetch", &url])
        .env("APT_CACHE", cache.path())
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .unwrap();
    let message = refused(&output);
    assert!(
        message.contains("a web page") && message.contains("a safetensors file"),
        "{message}"
    );
    let weights = cache.path().join("weights");
    let place = std::fs::read_dir(weights).unwrap().next().unwrap().unwrap();
    let files: Vec<String> = std::fs::read_dir(place.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, ["model.safetensors.lock"]);
}

/// Weights that are finite, and so large that every logit overflows.
fn overflowing(folder: &Path) -> PathBuf {
    let weights = folder.join("weights");
    std::fs::create_dir(&weights).unwrap();
    let sound = fixture("timm-vit");
    std::fs::copy(sound.join("config.json"), weights.join("config.json")).unwrap();
    let mut bytes = std::fs::read(sound.join("model.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    for tensor in ["norm.weight", "norm.bias"] {
        let offsets = &header[tensor]["data_offsets"];
        let [from, to] = [0, 1].map(|end| start + offsets[end].as_u64().unwrap() as usize);
        for value in bytes[from..to].chunks_exact_mut(4) {
            value.copy_from_slice(&3e38f32.to_le_bytes());
        }
    }
    std::fs::write(weights.join("model.safetensors"), bytes).unwrap();
    weights
}

#[test]
fn logits_that_are_no_numbers_are_no_answer_and_no_accuracy() {
    let folder = tempfile::tempdir().unwrap();
    let weights = overflowing(folder.path());
    let data = folder.path().join("data");
    for class in ["class 0", "class 1"] {
        std::fs::create_dir_all(data.join(class)).unwrap();
        save(&data.join(class).join("a.png"), 90);
    }
    let picture = data.join("class 0/a.png");
    let infer = ["infer", "--run", text(&weights), text(&picture)];
    let output = aptvit(&infer);
    let message = refused(&output);
    for word in [
        "1 of 1 pictures have no answer",
        "a.png",
        "logits",
        "damaged",
    ] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert!(output.stdout.is_empty());
    let output = aptvit(&[&infer[..], &["--json"]].concat());
    refused(&output);
    let entry = &json(&output)[0];
    assert!(
        entry["error"].is_string() && entry["classes"].is_null(),
        "{entry}"
    );
    let eval = ["eval", "--run", text(&weights), "--data", text(&data)];
    let message = refusal(&eval);
    for word in ["class 0/a.png", "logits", "damaged", "--dtype f32"] {
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
fn a_gif_without_pixels_has_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let path = folder.path().join("zero.gif");
    save(&path, 20);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[6..10].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let message = refusal(&["infer", "--run", text(&run), text(&path)]);
    assert!(message.contains("0 x 0 pixels"), "{message}");
}

#[test]
fn names_of_classes_are_one_a_line_and_tell_classes_apart() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let picture = folder.path().join("a.png");
    save(&picture, 20);
    let names = folder.path().join("names.txt");
    let infer = [
        "infer",
        "--run",
        text(&run),
        text(&picture),
        "--classes",
        text(&names),
    ];
    let ten: Vec<String> = (0..10).map(|class| format!("shape {class}\n")).collect();
    let ten = ten.concat();
    std::fs::write(&names, format!("{ten}\n \n")).unwrap();
    assert!(stdout(&aptvit(&infer)).contains("shape "));
    for (written, says) in [
        (
            ten.replace("shape 3", "shape 1"),
            "line 4 has the name 'shape 1', as line 2",
        ),
        (ten.replace("shape 3", ""), "line 4 is blank"),
        (
            ten.replace("shape 3", "\u{1b}[31m3"),
            r"line 4 has a control character in the name '\u{1b}[31m3'",
        ),
        (
            ten.replace("shape 3\n", ""),
            "9 names of classes, expected 10",
        ),
    ] {
        std::fs::write(&names, written).unwrap();
        let message = refusal(&infer);
        assert!(
            message.contains("names.txt") && message.contains(says),
            "{message}"
        );
    }
}

#[cfg(unix)]
#[test]
fn the_name_of_a_picture_cannot_act_on_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let pictures = folder.path().join("pictures");
    for class in ["circle", "cross"] {
        let class = pictures.join(class);
        std::fs::create_dir_all(&class).unwrap();
        save(&class.join("\u{1b}[31mgood.png"), 90);
        std::fs::write(class.join("\u{1b}[31mbad.png"), "text").unwrap();
    }
    let infer = aptvit(&["infer", "--run", text(&run), text(&pictures)]);
    refused(&infer);
    let eval = ["eval", "--run", text(&run), "--data", text(&pictures)];
    let refused_eval = aptvit(&eval);
    refused(&refused_eval);
    let skipping = aptvit(&[&eval[..], &["--on-bad", "skip"]].concat());
    stdout(&skipping);
    for output in [&infer, &refused_eval, &skipping] {
        let said = common::stderr(output) + &String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(r"\u{1b}[31mbad.png"), "{said}");
        assert!(!said.contains("\u{1b}[31m"), "{said:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn endless_input_is_refused_wherever_text_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let picture = folder.path().join("a.png");
    save(&picture, 20);
    let out = folder.path().join("out");
    for arguments in [
        vec!["train", "--config", "/dev/zero", "--out", text(&out)],
        vec![
            "infer",
            "--run",
            text(&run),
            text(&picture),
            "--classes",
            "/dev/zero",
        ],
        vec!["infer", "--run", "/dev/zero", text(&picture)],
    ] {
        let message = refusal(&arguments);
        assert!(
            message.contains("/dev/zero") && message.contains("expected a plain file"),
            "{message}"
        );
    }
    for name in ["config.json", "model.safetensors"] {
        let weights = folder.path().join(name).with_extension("d");
        std::fs::create_dir(&weights).unwrap();
        let sound = fixture("timm-vit");
        for file in ["config.json", "model.safetensors"] {
            if file == name {
                std::os::unix::fs::symlink("/dev/zero", weights.join(file)).unwrap();
            } else {
                std::fs::copy(sound.join(file), weights.join(file)).unwrap();
            }
        }
        let file = weights.join("model.safetensors");
        let message = refusal(&["infer", "--run", text(&file), text(&picture)]);
        assert!(
            message.contains(name) && message.contains("expected a plain file"),
            "{message}"
        );
    }
    std::fs::remove_file(run.join("budgets.json")).ok();
    std::os::unix::fs::symlink("/dev/zero", run.join("budgets.json")).unwrap();
    let message = refusal(&["infer", "--run", text(&run), text(&picture)]);
    assert!(
        message.contains("budgets.json") && message.contains("expected a plain file"),
        "{message}"
    );
}
