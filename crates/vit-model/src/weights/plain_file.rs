//! Only plain files are opened, and text of a limited size is read whole: a pipe or a device would never end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The largest file beside weights that is read whole, in bytes: a config, or an index of shards.
const MAX_TEXT: u64 = 64 << 20;

/// Opens a plain file, after its links.
///
/// # Errors
///
/// Says why it cannot be opened, or what it is instead.
pub(super) fn open(path: &Path) -> io::Result<File> {
    check(path)?;
    File::open(path)
}

/// Refuses what is no plain file before it is opened: a pipe would wait for its writer.
///
/// # Errors
///
/// As [`open`].
pub(super) fn check(path: &Path) -> io::Result<()> {
    let found = std::fs::metadata(path)?;
    if found.is_file() {
        return Ok(());
    }
    let kind = if found.is_dir() {
        "a folder"
    } else {
        "a pipe or a device"
    };
    let reason = format!("it is {kind}; expected a plain file");
    Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
}

/// The bytes of a plain file that is no larger than text is.
///
/// # Errors
///
/// As [`open`], and where the file is larger.
pub(super) fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT {
        let reason =
            format!("it has more than {MAX_TEXT} bytes, too many for a config or an index");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(bytes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_device_and_a_pipe_are_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("config.json");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [Path::new("/dev/zero"), &pipe] {
            for error in [open(path).unwrap_err(), read_text(path).unwrap_err()] {
                assert!(
                    error.to_string().contains("expected a plain file"),
                    "{error}"
                );
            }
        }
    }
}
