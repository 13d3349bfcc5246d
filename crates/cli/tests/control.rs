//! How a person, or the system, stops a training.
#![cfg(unix)]
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{TINY, program, text};
use nix::pty::{Winsize, openpty};

const LONG: Duration = Duration::from_secs(120);
/// A step of so many passes, the most that a config takes, does not end while a test runs.
const ENDLESS: &str = "train.grad_accumulation_steps=65536";

/// A training that would take long, and where it keeps its run.
fn training(folder: &Path, more: &[&str]) -> (Command, PathBuf) {
    let config = folder.join("tiny.toml");
    std::fs::write(&config, TINY).unwrap();
    let run = folder.join("run");
    let mut command = program();
    command
        .args(["train", "--config", text(&config), "--out", text(&run)])
        .args(["--set", "train.steps=400000"])
        .args(more);
    (command, run)
}

/// Waits until `what` is there.
fn wait_for(what: &Path) {
    let start = Instant::now();
    while !what.exists() {
        assert!(start.elapsed() < LONG, "no {}", what.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the end, and kills what has none.
fn end_of(child: &mut Child, within: Duration) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > within {
            child.kill().unwrap();
            panic!("it did not end within {within:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

fn has_pause(run: &Path) -> bool {
    let files = std::fs::read_dir(run.join("checkpoints"))
        .into_iter()
        .flatten();
    files
        .map(|file| file.unwrap().file_name())
        .any(|name| name.to_string_lossy().contains("pause-"))
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_training_with_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (mut command, run) = training(folder.path(), &["--plain"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    drop(lines);
    let status = end_of(&mut child, LONG);
    assert!(!status.success());
    assert!(has_pause(&run), "{status}");
}

#[test]
fn sigterm_saves_a_checkpoint_also_where_nobody_reads() {
    for is_read in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        // No epoch ends, and no line is printed.
        let one_epoch = "train.eval_interval=400000";
        let (mut command, run) = training(folder.path(), &["--plain", "--set", one_epoch]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        lines.read_line(&mut String::new()).unwrap();
        let lines = is_read.then_some(lines);
        wait_for(&run.join("metrics.jsonl"));
        send("-TERM", &child);
        end_of(&mut child, Duration::from_secs(20));
        assert!(has_pause(&run), "read: {is_read}");
        drop(lines);
    }
}

#[test]
fn a_second_signal_ends_a_step_that_does_not_end() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let folder = tempfile::tempdir().unwrap();
        let (mut command, run) = training(folder.path(), &["--plain", "--set", ENDLESS]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        wait_for(&run.join("metrics.jsonl"));
        send(signal, &child);
        std::thread::sleep(Duration::from_secs(1));
        assert!(child.try_wait().unwrap().is_none(), "the first one waits");
        send(signal, &child);
        let status = end_of(&mut child, Duration::from_secs(5));
        assert_eq!(status.code(), Some(code));
        assert!(!has_pause(&run));
    }
}

#[test]
fn sigterm_ends_a_step_that_does_not_end_after_half_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let (mut command, run) = training(folder.path(), &["--plain", "--set", ENDLESS]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    wait_for(&run.join("metrics.jsonl"));
    send("-TERM", &child);
    let status = end_of(&mut child, Duration::from_secs(40));
    assert_eq!(status.code(), Some(143));
}

/// Of the terminals here.
const SIZE: Winsize = Winsize {
    ws_row: 40,
    ws_col: 120,
    ws_xpixel: 0,
    ws_ypixel: 0,
};

/// A training in a terminal of its own, and what the terminal shows in the end.
fn in_a_terminal(
    term: &str,
    more: &[&str],
    keys: &[u8],
    ready: &str,
) -> (ExitStatus, String, bool) {
    let folder = tempfile::tempdir().unwrap();
    let terminal = openpty(&SIZE, None).unwrap();
    let (mut command, run) = training(folder.path(), more);
    let end = || Stdio::from(terminal.slave.try_clone().unwrap());
    command.stdin(end()).stdout(end()).stderr(end());
    let mut child = command.env("TERM", term).spawn().unwrap();
    // It holds ends of the terminal.
    drop(command);
    let mut screen = File::from(terminal.master.try_clone().unwrap());
    // It reads to the end, or the program would wait for it.
    let reader = std::thread::spawn(move || {
        let (mut shown, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = screen.read(&mut part) {
            shown.extend_from_slice(&part[..count]);
        }
        shown
    });
    wait_for(&run.join(ready));
    std::thread::sleep(Duration::from_millis(500));
    let mut keyboard = File::from(terminal.master);
    for key in keys {
        keyboard.write_all(&[*key]).unwrap();
        std::thread::sleep(Duration::from_millis(500));
    }
    let status = end_of(&mut child, LONG);
    let saved = has_pause(&run);
    // Reading ends when nobody holds the other end.
    drop(terminal.slave);
    drop(keyboard);
    let shown = reader.join().unwrap();
    (status, String::from_utf8_lossy(&shown).into_owned(), saved)
}

#[test]
fn a_terminal_that_is_closed_ends_the_training_with_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let terminal = openpty(&SIZE, None).unwrap();
    let (mut command, run) = training(folder.path(), &[]);
    let end = || Stdio::from(terminal.slave.try_clone().unwrap());
    command.stdin(end()).stdout(end()).stderr(end());
    let mut child = command.env("TERM", "xterm").spawn().unwrap();
    drop(command);
    drop(terminal.slave);
    let is_closed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The dashboard draws, and so each reading ends.
        scope.spawn(|| {
            let (mut screen, mut part) = (File::from(terminal.master), [0; 4096]);
            loop {
                let read = screen.read(&mut part);
                if read.is_err() || is_closed.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        wait_for(&run.join(FIRST_EPOCH));
        is_closed.store(true, Ordering::Relaxed);
    });
    send("-HUP", &child);
    let status = end_of(&mut child, LONG);
    assert_eq!(status.code(), Some(130));
    assert!(has_pause(&run));
}

const CTRL_C: u8 = 3;
const FIRST_EPOCH: &str = "checkpoints/scheduler-1.bpk";
const TAKES_SCREEN: &str = "\x1b[?1049h";
const LEAVES_SCREEN: &str = "\x1b[?1049l";

#[test]
fn ctrl_c_in_the_dashboard_saves_a_checkpoint() {
    for keys in [&[CTRL_C][..], b"qs"] {
        let (status, shown, saved) = in_a_terminal("xterm", &[], keys, FIRST_EPOCH);
        assert_eq!(status.code(), Some(130), "{shown}");
        assert!(saved, "{shown}");
        let after = shown.rsplit(LEAVES_SCREEN).next().unwrap();
        assert!(after.contains("aptvit train --resume"), "{after}");
        assert!(
            shown.contains("accuracy") && !shown.contains("NaN"),
            "{shown}"
        );
    }
}

#[test]
fn what_is_ended_at_once_in_the_dashboard_is_no_failed_device() {
    for keys in [&[CTRL_C, CTRL_C][..], b"qk"] {
        let (status, shown, saved) =
            in_a_terminal("xterm", &["--set", ENDLESS], keys, "metrics.jsonl");
        assert_eq!(status.code(), Some(130), "{shown}");
        assert!(!saved && !shown.contains("device failed"), "{shown}");
        assert!(shown.contains(LEAVES_SCREEN), "{shown}");
    }
}

#[test]
fn a_terminal_that_knows_no_positions_gets_plain_lines() {
    let short = ["--set", "train.steps=8"];
    let (status, shown, _) = in_a_terminal("dumb", &short, &[], "summary.json");
    assert!(status.success(), "{shown}");
    assert!(
        shown.contains("epoch") && !shown.contains(TAKES_SCREEN),
        "{shown}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written_is_no_success() {
    for arguments in [
        &["--help"][..],
        &["train", "--help"],
        &["completions", "bash"],
    ] {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = program()
            .args(arguments)
            .stdout(full)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}: {said}");
        assert!(!said.contains("should not happen"), "{said}");
    }
}

#[test]
fn a_pipe_gets_no_colours_and_stdout_no_progress() {
    let folder = tempfile::tempdir().unwrap();
    let short = ["--set", "train.steps=8", "--log", "info", "--json"];
    let (mut command, _) = training(folder.path(), &short);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let logged = String::from_utf8_lossy(&output.stderr);
    assert!(
        logged.contains("INFO") && !logged.contains('\x1b'),
        "{logged}"
    );
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(result["pruned_accuracy"].is_number());
}
