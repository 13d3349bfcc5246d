//! A training over two processes.
#![cfg(feature = "remote")]
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{TINY, program, refused, stderr, stdout, text, weights};

/// AdamW moves weights whose gradients are near zero by their rounding, and while the head is next
/// to zero, rounding decides which cuts are rewarded.
const EXACT: [&str; 4] = [
    "model.dropout=0.0",
    "optimizer.kind=sgd",
    "optimizer.learning_rate=0.03",
    "schedule.warmup_steps=1",
];

/// `aptvit lend` on a free port.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(token: Option<&str>) -> Self {
        let mut command = program();
        command.args([
            "lend",
            "--device",
            "flex",
            "--listen",
            "127.0.0.1:0",
            "--json",
        ]);
        if let Some(token) = token {
            command.env("APTVIT_TOKEN", token);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self {
            child,
            address: json["address"].as_str().unwrap().to_string(),
        }
    }

    fn devices(&self) -> String {
        format!("flex,remote:{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn train(folder: &Path, name: &str, device: &str, more: &[&str]) -> Command {
    let config = folder.join("tiny.toml");
    std::fs::write(&config, TINY).unwrap();
    let mut command = program();
    command
        .args(["train", "--plain", "--json", "--config", text(&config)])
        .args(["--out", text(&folder.join(name)), "--device", device])
        .args(EXACT.iter().flat_map(|entry| ["--set", entry]))
        .args(more);
    command
}

fn run(mut command: Command) -> Output {
    command.output().unwrap()
}

#[test]
fn two_processes_give_the_update_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(None);
    stdout(&run(train(folder.path(), "one", "flex", &[])));
    stdout(&run(train(folder.path(), "two", &server.devices(), &[])));
    let (one, two) = (
        weights(&folder.path().join("one")),
        weights(&folder.path().join("two")),
    );
    assert_eq!(one.len(), two.len());
    for (one, two) in one.iter().zip(&two) {
        assert!((one - two).abs() < 1e-5, "{one} {two}");
    }
}

#[test]
fn a_process_that_is_killed_ends_the_training_with_its_last_checkpoint_intact() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(None);
    let many = ["--set", "train.steps=4000"];
    let mut command = train(folder.path(), "run", &server.devices(), &many);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = folder.path().join("run");
    let start = Instant::now();
    let checkpoints = || {
        let entries = std::fs::read_dir(out.join("checkpoints"));
        entries.map_or(0, Iterator::count)
    };
    while checkpoints() < 2 {
        assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let message = refused(&output);
    assert!(message.contains("device"), "{message}");
    assert!(message.contains("last good checkpoint"), "{message}");

    // The training goes on from there, on one device.
    let limit = [
        "--resume",
        text(&out),
        "--time-limit",
        "1s",
        "--device",
        "flex",
    ];
    let output = program().arg("train").args(limit).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn nobody_there_and_a_wrong_secret_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let device = format!("flex,remote:{address}");
    let message = refused(&run(train(folder.path(), "a", &device, &[])));
    assert!(message.contains("aptvit lend"), "{message}");

    let server = Server::start(Some("secret"));
    let mut command = train(folder.path(), "b", &server.devices(), &[]);
    command.env("APTVIT_TOKEN", "guess");
    let message = refused(&run(command));
    assert!(message.to_lowercase().contains("credential"), "{message}");
    let mut command = train(folder.path(), "c", &server.devices(), &[]);
    command.env("APTVIT_TOKEN", "secret");
    stdout(&run(command));
}
