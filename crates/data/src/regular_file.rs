//! Only plain files are read, and none beyond a size: a pipe or a device would never end.

use crate::DataError;
use std::fs::{File, FileType, Metadata};
use std::io::Read;
use std::path::Path;

/// The largest picture that is read, in bytes.
pub const MAX_PICTURE_BYTES: u64 = 512 << 20;

/// The largest file of text that is read whole, in bytes: a config, the names of classes.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// The text of a plain file of at most [`MAX_TEXT_BYTES`], such as a config.
///
/// # Errors
///
/// If the file cannot be read, is no plain file, is larger, or is no UTF-8; the error names it.
pub fn read_text(path: &Path) -> Result<String, DataError> {
    let bytes = read(path, MAX_TEXT_BYTES)?;
    String::from_utf8(bytes).map_err(|error| {
        let reason = std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error());
        DataError::io("read", path)(reason)
    })
}

/// What stands at a path, after its links; a pipe or a device is refused before it is opened.
pub(crate) fn regular(path: &Path) -> Result<Metadata, DataError> {
    let found = std::fs::metadata(path).map_err(DataError::io("read", path))?;
    if found.is_file() {
        Ok(found)
    } else {
        Err(DataError::NotAFile {
            path: path.into(),
            found: kind(found.file_type()),
        })
    }
}

/// Opens a plain file.
pub(crate) fn open(path: &Path) -> Result<File, DataError> {
    regular(path)?;
    File::open(path).map_err(DataError::io("open", path))
}

/// The bytes of a plain file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, DataError> {
    let size = regular(path)?.len();
    if size == 0 {
        // A file that the kernel makes up claims this, too, and may make its reader wait.
        return Ok(Vec::new());
    }
    let too_large = |found| DataError::FileTooLarge {
        path: path.into(),
        found,
        limit,
    };
    if size > limit {
        return Err(too_large(size));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(DataError::io("read", path))?;
    match bytes.len() as u64 {
        found if found > limit => Err(too_large(found)),
        _ => Ok(bytes),
    }
}

#[cfg(unix)]
fn kind(found: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if found.is_dir() {
        "a folder"
    } else if found.is_fifo() {
        "a named pipe"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn kind(found: FileType) -> &'static str {
    if found.is_dir() {
        "a folder"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_a_file_beyond_the_limit_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path(), 10).unwrap_err().to_string();
        assert!(error.contains("is a folder"), "{error}");
        let path = folder.path().join("a.png");
        std::fs::write(&path, [7; 11]).unwrap();
        assert_eq!(read(&path, 11).unwrap(), [7; 11]);
        let error = read(&path, 10).unwrap_err().to_string();
        assert!(
            error.contains("a.png has 11 bytes, more than 10"),
            "{error}"
        );
    }

    #[test]
    fn text_is_read_whole_and_other_bytes_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classes.txt");
        std::fs::write(&path, "cat\ndog\n").unwrap();
        assert_eq!(read_text(&path).unwrap(), "cat\ndog\n");
        std::fs::write(&path, b"caf\xe9\n").unwrap();
        let error = read_text(&path).unwrap_err().to_string();
        assert!(
            error.contains("classes.txt") && error.contains("utf-8"),
            "{error}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn endless_input_is_no_text() {
        let error = read_text(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("/dev/zero is a device"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_and_files_of_the_kernel_are_not_read() {
        let error = read(Path::new("/dev/zero"), 10).unwrap_err().to_string();
        assert!(error.contains("/dev/zero is a device"), "{error}");
        assert!(read(Path::new("/proc/self/maps"), 10).unwrap().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_without_waiting_for_its_writer_also_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("a.png");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let link = folder.path().join("b.png");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for path in [&pipe, &link] {
            let error = read(path, 10).unwrap_err().to_string();
            assert!(error.contains("is a named pipe"), "{error}");
            assert!(open(path).is_err());
        }
    }
}
