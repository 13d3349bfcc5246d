//! What a downloaded file must hash to, and what it does hash to.

use crate::DataError;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use ureq::http::{HeaderMap, header};

/// What a downloaded file must hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// MD5, in hex; guards against accidents only.
    Md5(String),
    /// SHA-256, in hex.
    Sha256(String),
    /// None is published. The SHA-256 of the first download is recorded in a file beside it,
    /// `<name>.sha256`, and holds from then on.
    FirstUse,
}

/// What is known of a file's checksum.
pub(crate) struct Known {
    pub kind: &'static str,
    hash: fn(&Path) -> io::Result<String>,
    /// Lower-case; unknown before the first use of a file whose publisher says none.
    pub hex: Option<String>,
    /// Where it is recorded on first use.
    pub record: Option<PathBuf>,
}

impl Known {
    pub fn read(checksum: &Checksum, dest: &Path) -> Result<Self, DataError> {
        let of_sha256 = |hex, record| Self {
            kind: "SHA-256",
            hash: hash::<Sha256>,
            hex,
            record,
        };
        Ok(match checksum {
            Checksum::Md5(hex) => Self {
                kind: "MD5",
                hash: hash::<md5::Md5>,
                hex: Some(hex.to_ascii_lowercase()),
                record: None,
            },
            Checksum::Sha256(hex) => of_sha256(Some(hex.to_ascii_lowercase()), None),
            Checksum::FirstUse => {
                let path = beside(dest, ".sha256");
                let hex = match std::fs::read_to_string(&path) {
                    Ok(text) => Some(text.trim().to_ascii_lowercase()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => return Err(DataError::io("read", &path)(error)),
                };
                of_sha256(hex, Some(path))
            }
        })
    }

    /// The checksum of a file, in hex.
    pub fn of(&self, path: &Path) -> Result<String, DataError> {
        (self.hash)(path).map_err(DataError::io("read", path))
    }

    /// Is it the right one? The first one is, and is recorded.
    pub fn accepts(&self, found: &str) -> Result<bool, DataError> {
        match (&self.hex, &self.record) {
            (Some(hex), _) => Ok(hex == found),
            (None, Some(record)) => {
                std::fs::write(record, format!("{found}\n"))
                    .map_err(DataError::io("write", record))?;
                Ok(true)
            }
            (None, None) => Ok(false),
        }
    }

    /// Is a part all of the file, of which the server has nothing more to send?
    pub fn is_all(&self, part: &Path, headers: &HeaderMap) -> Result<bool, DataError> {
        match &self.hex {
            Some(hex) => Ok(*hex == self.of(part)?),
            None => {
                let length = std::fs::metadata(part)
                    .map_err(DataError::io("read", part))?
                    .len();
                Ok(whole_length(headers) == Some(length))
            }
        }
    }
}

pub(crate) fn hash<D: Digest>(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = D::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    let bytes = digest.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The whole length in a `Content-Range: bytes */200`.
fn whole_length(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.rsplit_once('/')?.1.trim().parse().ok()
}

/// The path with something behind its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
