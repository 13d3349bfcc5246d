//! Downloads from a server on this machine that answers as told.

use super::*;
use crate::checksum::hash;
use crate::server::{Answer, Server};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use tempfile::TempDir;

/// Noise, larger than any buffer on the way.
fn content() -> Vec<u8> {
    (0..300_000).map(|i| crate::mix_seed(&[i]) as u8).collect()
}

fn sha256(bytes: &[u8]) -> Checksum {
    let hash = Sha256::digest(bytes);
    Checksum::Sha256(hash.iter().map(|byte| format!("{byte:02X}")).collect())
}

struct Download {
    folder: TempDir,
    server: Server,
}

impl Download {
    fn new(answers: Vec<Answer>) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            server: Server::start(content(), answers),
        }
    }

    fn dest(&self) -> PathBuf {
        self.folder.path().join("cache/file.bin")
    }

    fn part(&self) -> PathBuf {
        self.folder.path().join("cache/file.bin.part")
    }

    fn begin_with(&self, bytes: &[u8]) {
        std::fs::create_dir_all(self.part().parent().unwrap()).unwrap();
        std::fs::write(self.part(), bytes).unwrap();
    }

    fn run(&self) -> Result<(), DataError> {
        self.run_with(&sha256(&content()))
    }

    fn run_with(&self, checksum: &Checksum) -> Result<(), DataError> {
        let url = self.server.url("file.bin");
        Downloader::for_tests().fetch(&url, &self.dest(), checksum, Progress::Hidden)
    }

    fn assert_complete(&self) {
        self.run().unwrap();
        assert!(std::fs::read(self.dest()).unwrap() == content());
        assert!(!self.part().exists());
    }
}

#[test]
fn a_file_arrives_whole_and_is_not_asked_for_again() {
    let download = Download::new(vec![Answer::File]);
    download.assert_complete();
    download.run().unwrap();
    assert_eq!(download.server.ranges(), [None]);
}

#[test]
fn a_spoilt_file_in_the_cache_is_replaced() {
    let download = Download::new(vec![Answer::File]);
    download.begin_with(b"");
    std::fs::write(download.dest(), b"spoilt").unwrap();
    download.assert_complete();
}

#[test]
fn a_cut_transfer_goes_on_where_it_stopped() {
    let download = Download::new(vec![Answer::CutAfter(100_000), Answer::File]);
    download.assert_complete();
    assert_eq!(download.server.ranges(), [None, Some(100_000)]);
}

#[test]
fn a_part_of_an_earlier_run_is_continued() {
    let download = Download::new(vec![Answer::File]);
    download.begin_with(&content()[..250_000]);
    download.assert_complete();
    assert_eq!(download.server.ranges(), [Some(250_000)]);
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let download = Download::new(vec![Answer::CutAfter(100_000), Answer::WholeFile]);
    download.assert_complete();
    assert_eq!(download.server.ranges(), [None, Some(100_000)]);
}

#[test]
fn a_complete_part_needs_no_byte_more() {
    let download = Download::new(vec![Answer::Status(416)]);
    download.begin_with(&content());
    download.assert_complete();
}

#[test]
fn a_part_longer_than_the_file_is_started_anew() {
    let download = Download::new(vec![Answer::Status(416), Answer::File]);
    download.begin_with(&[7; 400_000]);
    download.assert_complete();
    assert_eq!(download.server.ranges(), [Some(400_000), None]);
}

#[test]
fn a_wrong_range_is_started_anew() {
    let download = Download::new(vec![Answer::WrongRange, Answer::File]);
    download.begin_with(&content()[..1000]);
    download.assert_complete();
}

#[test]
fn a_busy_server_is_asked_again() {
    let download = Download::new(vec![Answer::Status(503), Answer::Close, Answer::File]);
    download.assert_complete();
}

#[test]
fn redirects_are_followed() {
    let download = Download::new(vec![Answer::Redirect, Answer::File]);
    download.assert_complete();
}

#[test]
fn a_server_that_stays_busy_is_given_up_and_the_part_is_kept() {
    let mut answers = vec![Answer::CutAfter(100_000)];
    answers.extend([Answer::Status(503); 3]);
    let download = Download::new(answers);
    let error = download.run().unwrap_err().to_string();
    assert!(error.contains("HTTP status 503"), "{error}");
    assert!(error.contains("3 tries"), "{error}");
    assert_eq!(std::fs::read(download.part()).unwrap().len(), 100_000);
}

#[test]
fn a_server_that_begins_anew_each_time_and_gets_nowhere_is_given_up() {
    let download = Download::new(vec![Answer::CutAfter(100); 20]);
    let error = download.run().unwrap_err().to_string();
    assert!(error.contains("gave up after 3 tries"), "{error}");
    // The first one got somewhere.
    assert_eq!(download.server.ranges().len(), 4);
}

#[test]
fn a_server_that_begins_anew_each_time_and_gets_further_is_not_given_up() {
    let mut answers: Vec<Answer> = (1..8).map(|k| Answer::CutAfter(k * 10_000)).collect();
    answers.push(Answer::WholeFile);
    Download::new(answers).assert_complete();
}

#[test]
fn corruption_is_noticed_and_the_file_removed() {
    let download = Download::new(vec![Answer::Corrupt]);
    let error = download.run().unwrap_err();
    let DataError::Download(DownloadError::Checksum {
        found, expected, ..
    }) = &error
    else {
        panic!("{error}");
    };
    assert_ne!(found, expected);
    assert!(error.to_string().contains(found), "{error}");
    assert!(!download.part().exists() && !download.dest().exists());
}

#[test]
fn a_missing_file_is_final_and_says_what_to_do() {
    let download = Download::new(vec![Answer::Status(404)]);
    let error = download.run().unwrap_err().to_string();
    assert!(error.contains("HTTP status 404"), "{error}");
    assert!(error.contains("file.bin"), "{error}");
    assert!(error.contains("--data"), "{error}");
}

#[test]
fn md5_is_known_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, "abc").unwrap();
    let known = Known::read(&Checksum::Md5(String::new()), &path).unwrap();
    assert_eq!(known.of(&path).unwrap(), "900150983cd24fb0d6963f7d28e17f72");
}

#[test]
fn without_a_published_checksum_the_first_one_holds() {
    let download = Download::new(vec![Answer::File, Answer::File, Answer::Corrupt]);
    let first_use = || download.run_with(&Checksum::FirstUse);
    first_use().unwrap();
    let record = download.folder.path().join("cache/file.bin.sha256");
    let recorded = std::fs::read_to_string(&record).unwrap();
    assert_eq!(
        Checksum::Sha256(recorded.trim().to_uppercase()),
        sha256(&content())
    );
    // What is there is not asked for again; what is spoilt there is replaced by the same.
    first_use().unwrap();
    std::fs::write(download.dest(), b"spoilt").unwrap();
    first_use().unwrap();
    assert!(std::fs::read(download.dest()).unwrap() == content());
    // Another file is refused, and the error says how to accept it.
    std::fs::remove_file(download.dest()).unwrap();
    let error = first_use().unwrap_err().to_string();
    assert!(error.contains("file.bin.sha256"), "{error}");
    assert!(!download.part().exists() && !download.dest().exists());
}

#[test]
fn a_cut_transfer_without_a_checksum_is_completed() {
    let download = Download::new(vec![Answer::CutAfter(100_000), Answer::File]);
    download.run_with(&Checksum::FirstUse).unwrap();
    assert!(std::fs::read(download.dest()).unwrap() == content());
    let complete = Download::new(vec![Answer::NothingLeft]);
    complete.begin_with(&content());
    complete.run_with(&Checksum::FirstUse).unwrap();
    assert!(std::fs::read(complete.dest()).unwrap() == content());
    let longer = Download::new(vec![Answer::NothingLeft, Answer::File]);
    longer.begin_with(&[7; 400_000]);
    longer.run_with(&Checksum::FirstUse).unwrap();
    assert!(std::fs::read(longer.dest()).unwrap() == content());
}

#[test]
fn a_file_that_changed_meanwhile_is_not_joined_to_the_old_part() {
    let same = [
        Answer::Tagged("\"a\"", 100_000),
        Answer::Tagged("\"a\"", usize::MAX),
    ];
    let changed = [
        Answer::Tagged("\"a\"", 100_000),
        Answer::Tagged("\"b\"", usize::MAX),
    ];
    for (answers, second) in [(same, Some(100_000)), (changed, None)] {
        let download = Download::new(answers.to_vec());
        download.run_with(&Checksum::FirstUse).unwrap();
        assert!(std::fs::read(download.dest()).unwrap() == content());
        assert_eq!(download.server.ranges(), [None, second]);
        assert!(
            !download
                .folder
                .path()
                .join("cache/file.bin.part.etag")
                .exists()
        );
    }
}

#[test]
fn a_proxy_is_gone_through() {
    let server = Server::start(content(), vec![Answer::File]);
    let proxy = crate::server::proxy_to(server.address());
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("file.bin");
    let proxy = ureq::Proxy::new(&format!("http://{proxy}")).unwrap();
    let agent = Downloader::agent(PATIENCE).proxy(Some(proxy));
    // No such host: only the proxy can reach it.
    Downloader::new(agent, 2, Duration::from_millis(1))
        .fetch(
            "http://weights.invalid/file.bin",
            &dest,
            &sha256(&content()),
            Progress::Hidden,
        )
        .unwrap();
    assert!(std::fs::read(&dest).unwrap() == content());
}

#[test]
fn a_silent_server_is_asked_again_and_then_given_up() {
    let impatient = |answers: Vec<Answer>| {
        let download = Download::new(answers);
        let agent = Downloader::agent(Duration::from_millis(500)).proxy(None);
        let (url, dest) = (download.server.url("file.bin"), download.dest());
        Downloader::new(agent, 3, Duration::from_millis(1)).fetch(
            &url,
            &dest,
            &sha256(&content()),
            Progress::Hidden,
        )
    };
    let answers = [Answer::SilentAfter(100_000), Answer::Silent, Answer::File];
    impatient(answers.to_vec()).unwrap();
    let error = impatient(vec![Answer::Silent; 3]).unwrap_err().to_string();
    assert!(error.contains("the server stays silent"), "{error}");
    assert!(error.contains("3 tries"), "{error}");
}

/// Downloads `file` from a server that answers with `content`.
fn fetched(folder: &Path, file: &str, content: &[u8]) -> Result<(), DataError> {
    let server = Server::start(content.to_vec(), vec![Answer::File]);
    let dest = folder.join(file);
    Downloader::for_tests().fetch(
        &server.url(file),
        &dest,
        &Checksum::FirstUse,
        Progress::Hidden,
    )
}

#[test]
fn a_page_that_is_sent_instead_of_weights_is_named_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let page = b"<!DOCTYPE html><html><title>Log in</title></html>";
    for file in ["model.safetensors", "vit.npz", "images.tar.gz"] {
        let error = fetched(folder.path(), file, page).unwrap_err().to_string();
        assert!(error.contains("a web page"), "{error}");
        for suffix in ["", ".part", ".sha256", ".part.etag"] {
            assert!(!folder.path().join(format!("{file}{suffix}")).exists());
        }
    }
}

#[test]
fn a_page_that_was_kept_before_is_replaced_by_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("vit.npz");
    std::fs::write(&dest, b"<html></html>").unwrap();
    let hash = hash::<Sha256>(&dest).unwrap();
    std::fs::write(beside(&dest, ".sha256"), hash).unwrap();
    fetched(folder.path(), "vit.npz", b"PK\x03\x04 weights").unwrap();
    assert!(std::fs::read(&dest).unwrap().starts_with(b"PK"));
}
