//! What a downloaded file is, by its first bytes: a server may answer with a page instead of the file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Enough to know a file by.
const START: u64 = 1024;

/// A kind of file, as its first bytes tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Safetensors,
    Zip,
    Gzip,
    Pickle,
    Json,
    WebPage,
    GitPointer,
    Text,
    Empty,
    /// Bytes that say nothing.
    Unknown,
}

impl Content {
    fn of(start: &[u8], size: u64) -> Self {
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        let text = text.trim_ascii_start();
        if start.is_empty() {
            Self::Empty
        } else if start.starts_with(b"PK\x03\x04") {
            Self::Zip
        } else if start.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if is_safetensors(start, size) {
            Self::Safetensors
        } else if matches!(start, [0x80, 2..=5, ..]) {
            Self::Pickle
        } else if text.starts_with(b"<") {
            Self::WebPage
        } else if text.starts_with(b"{") || text.starts_with(b"[") {
            Self::Json
        } else if text.starts_with(b"version https://git-lfs") {
            Self::GitPointer
        } else if is_text(start) {
            Self::Text
        } else {
            Self::Unknown
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Safetensors => "a safetensors file",
            Self::Zip => "a zip archive",
            Self::Gzip => "a gzip file",
            Self::Pickle => "a pickle",
            Self::Json => "JSON",
            Self::WebPage => "a web page (HTML or XML)",
            Self::GitPointer => "a Git LFS pointer",
            Self::Text => "text",
            Self::Empty => "an empty file",
            Self::Unknown => "bytes of no known kind",
        }
    }
}

/// What a file should be.
struct Expected {
    in_words: &'static str,
    accepts: fn(Content) -> bool,
}

impl Expected {
    fn of_name(path: &Path) -> Self {
        use Content::{Gzip, Json, Pickle, Safetensors, Text, Unknown, Zip};
        let extension = path.extension().map(OsStr::to_ascii_lowercase);
        let (in_words, accepts): (_, fn(Content) -> bool) = match extension
            .as_deref()
            .and_then(OsStr::to_str)
        {
            Some("safetensors") => ("a safetensors file", |found| found == Safetensors),
            Some("npz" | "zip") => ("a zip archive", |found| found == Zip),
            Some("gz" | "tgz") => ("a gzip file", |found| found == Gzip),
            Some("json") => ("JSON", |found| found == Json),
            Some("txt" | "md" | "csv" | "toml") => ("text", |found| matches!(found, Text | Json)),
            // PyTorch's older formats begin in several ways.
            _ => ("weights or an archive", |found| {
                matches!(found, Safetensors | Zip | Gzip | Pickle | Unknown)
            }),
        };
        Self { in_words, accepts }
    }
}

/// What was found in `file` and what was expected, where the two do not fit; `name` is what the file is to be called.
pub(crate) fn mismatch(
    file: &Path,
    name: &Path,
) -> io::Result<Option<(&'static str, &'static str)>> {
    let opened = File::open(file)?;
    let size = opened.metadata()?.len();
    let mut start = Vec::new();
    opened.take(START).read_to_end(&mut start)?;
    let (found, expected) = (Content::of(&start, size), Expected::of_name(name));
    let fits = (expected.accepts)(found);
    Ok((!fits).then(|| (found.in_words(), expected.in_words)))
}

/// The length of a header in JSON, and the header.
fn is_safetensors(start: &[u8], size: u64) -> bool {
    let length = start.get(..8).and_then(|length| length.try_into().ok());
    let length = length.map(u64::from_le_bytes);
    start.get(8) == Some(&b'{') && length.is_some_and(|length| length <= size.saturating_sub(8))
}

fn is_text(start: &[u8]) -> bool {
    let is_control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    // A character of several bytes may be cut at the end.
    let is_utf8 = match str::from_utf8(start) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    is_utf8 && !start.iter().any(is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a file of this name and content.
    fn found(name: &str, bytes: &[u8]) -> Option<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        std::fs::write(&path, bytes).unwrap();
        let mismatch = mismatch(&path, Path::new(name)).unwrap();
        mismatch.map(|(found, _)| found)
    }

    #[test]
    fn files_are_what_their_names_say() {
        let safetensors = [&2u64.to_le_bytes()[..], b"{}"].concat();
        for (name, bytes) in [
            ("a.safetensors", safetensors.as_slice()),
            ("a.npz", b"PK\x03\x04 and more"),
            ("a.tar.gz", &[0x1f, 0x8b, 8, 0]),
            ("a.bin", &[0x80, 2, 0x8a, 0x0a]),
            ("a.bin", b"PK\x03\x04 and more"),
            ("a.pth", &[3, 200, 7, 0]),
            ("weights", &safetensors),
            ("config.json", b" {\"a\": 1}"),
            ("labels.txt", b"cat\ndog\n"),
        ] {
            assert_eq!(found(name, bytes), None, "{name}");
        }
    }

    #[test]
    fn a_page_is_neither_weights_nor_an_archive() {
        let page = b"\n<!DOCTYPE html><html><body>Please log in</body></html>";
        for name in [
            "a.safetensors",
            "a.npz",
            "a.tar.gz",
            "a.bin",
            "a.json",
            "weights",
        ] {
            assert_eq!(
                found(name, page),
                Some("a web page (HTML or XML)"),
                "{name}"
            );
        }
        assert_eq!(found("a.bin", b"{\"error\": 1}"), Some("JSON"));
        assert_eq!(found("a.bin", b"not found"), Some("text"));
        assert_eq!(found("a.bin", b""), Some("an empty file"));
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00";
        assert_eq!(found("a.npz", pointer), Some("a Git LFS pointer"));
        assert_eq!(found("a.npz", &[0x1f, 0x8b, 8]), Some("a gzip file"));
        // The header would be longer than the file.
        let cut = [&2000u64.to_le_bytes()[..], b"{}"].concat();
        assert!(found("a.safetensors", &cut).is_some());
    }
}
