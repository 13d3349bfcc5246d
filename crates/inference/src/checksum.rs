//! Checksums of files, beside them or in a description: what is read is what was written.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::InferenceError;
use crate::files::{partial, write_whole};

/// How a checksum's text begins.
const KIND: &str = "crc32c";

/// A file's CRC-32C and its length in bytes; as text, `crc32c:1a2b3c4d:1024`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checksum {
    crc: u32,
    bytes: u64,
}

impl Checksum {
    /// Of bytes in memory.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            crc: crc32c::crc32c(bytes),
            bytes: bytes.len() as u64,
        }
    }

    /// Of a file, which is read piece by piece.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn of_file(path: &Path) -> Result<Self, InferenceError> {
        let read = || InferenceError::io(path, "read");
        let mut file = File::open(path).map_err(read())?;
        let mut sum = Self { crc: 0, bytes: 0 };
        let mut piece = vec![0; 1 << 20];
        loop {
            let length = file.read(&mut piece).map_err(read())?;
            if length == 0 {
                return Ok(sum);
            }
            sum.crc = crc32c::crc32c_append(sum.crc, &piece[..length]);
            sum.bytes += length as u64;
        }
    }

    /// Is this the checksum that `path` has to have?
    ///
    /// # Errors
    ///
    /// Where it is not; the error ends with `advice`.
    pub fn expect(self, expected: Self, path: &Path, advice: &str) -> Result<(), InferenceError> {
        if self == expected {
            return Ok(());
        }
        Err(InferenceError::Damaged {
            path: path.to_path_buf(),
            found: self.to_string(),
            expected: expected.to_string(),
            advice: advice.to_string(),
        })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KIND}:{:08x}:{}", self.crc, self.bytes)
    }
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.trim_end().split(':').collect();
        let sum = match parts.as_slice() {
            [KIND, crc, bytes] => u32::from_str_radix(crc, 16).ok().zip(bytes.parse().ok()),
            _ => None,
        };
        let (crc, bytes) =
            sum.ok_or_else(|| format!("found `{text}`, expected `{KIND}:CRC:BYTES`"))?;
        Ok(Self { crc, bytes })
    }
}

impl TryFrom<String> for Checksum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

/// Where a file's checksum is: beside it, as `NAME.crc32c`.
pub fn checksum_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(KIND);
    name.into()
}

/// Is a file what was written? One without a checksum beside it, as earlier versions wrote it, is not checked.
///
/// # Errors
///
/// Where it is another one; the error ends with `advice`.
pub fn verify(path: &Path, advice: &str) -> Result<(), InferenceError> {
    let beside = checksum_file(path);
    if matches!(beside.try_exists(), Ok(false)) {
        return Ok(());
    }
    let text = apt_data::read_text(&beside)?;
    let expected: Checksum = text.parse().map_err(|reason| {
        let reason = format!("is damaged: {reason}; remove it to read the file unchecked");
        InferenceError::folder(&beside, reason)
    })?;
    Checksum::of_file(path)?.expect(expected, path, advice)
}

/// Moves a finished file from `from` to its place `path`, its checksum beside it. Whenever a file is in its place, its
/// checksum is, too.
///
/// # Errors
///
/// Where a file cannot be read, replaced or written.
pub fn publish(from: &Path, path: &Path) -> Result<(), InferenceError> {
    let checksum = Checksum::of_file(from)?;
    remove(path)?;
    write_whole(&checksum_file(path), format!("{checksum}\n").as_bytes())?;
    fs::rename(from, path).map_err(InferenceError::io(path, "write"))
}

/// Writes a file whole or not at all, its checksum beside it.
///
/// # Errors
///
/// Where it cannot be written.
pub fn write_checked(path: &Path, bytes: &[u8]) -> Result<(), InferenceError> {
    let partial = partial(path);
    fs::write(&partial, bytes).map_err(InferenceError::io(path, "write"))?;
    publish(&partial, path)
}

/// Removes a file and its checksum, where they are there.
///
/// # Errors
///
/// Where the system refuses it.
pub fn remove_checked(path: &Path) -> Result<(), InferenceError> {
    remove(path)?;
    remove(&checksum_file(path))
}

fn remove(path: &Path) -> Result<(), InferenceError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(InferenceError::io(path, "replace or remove")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_and_a_cut_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bpk");
        let bytes = vec![7; 3 << 20];
        write_checked(&path, &bytes).unwrap();
        verify(&path, "").unwrap();
        let mut flipped = bytes.clone();
        flipped[2 << 20] ^= 16;
        for (damaged, length) in [(&flipped[..], "3145728"), (&bytes[..9], "9")] {
            fs::write(&path, damaged).unwrap();
            let error = verify(&path, "copy it again").unwrap_err().to_string();
            for word in ["model.bpk", "found crc32c:", "expected crc32c:", length] {
                assert!(error.contains(word), "{word}: {error}");
            }
            assert!(error.ends_with("copy it again"), "{error}");
        }
        // A new file brings its own checksum.
        write_checked(&path, b"other").unwrap();
        verify(&path, "").unwrap();
        remove_checked(&path).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn a_checksum_is_read_as_it_is_written() {
        let sum = Checksum::of_bytes(b"123456789");
        assert_eq!(sum.to_string(), "crc32c:e3069283:9");
        assert_eq!("crc32c:e3069283:9\n".parse(), Ok(sum));
        assert!("md5:e3069283:9".parse::<Checksum>().is_err());
    }
}
