//! What stands below the user's path: a folder and an archive, seen alike.

use crate::picture_format::PICTURE_EXTENSIONS;
use crate::printable::{in_unicode, printable, printable_text};
use crate::progress::{Meter, Unit};
use crate::regular_file::{self, MAX_PICTURE_BYTES};
use crate::{DataError, Progress};
use flate2::read::MultiGzDecoder;
use std::borrow::Cow;
use std::collections::{HashMap, hash_map};
use std::ffi::OsStr;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Component, Path, PathBuf};
use walkdir::WalkDir;

/// The largest other file that is read (CIFAR-100's training set has 150 MB).
const BINARY_LIMIT: u64 = 256 << 20;

/// The files and folders below a path, hidden ones left out, sorted by name.
pub(crate) struct Tree {
    pub root: PathBuf,
    pub entries: Vec<Entry>,
    is_archive: bool,
}

pub(crate) struct Entry {
    /// The path below the root: folders, then the name.
    pub parts: Vec<String>,
    /// The first of them whose bytes are no text.
    pub not_unicode: Option<usize>,
    pub content: EntryContent,
}

pub(crate) enum EntryContent {
    Folder,
    /// A file on disk.
    File(PathBuf),
    /// A file of an archive.
    Bytes(Vec<u8>),
    /// A file of an archive that no source reads.
    Unread,
}

impl Entry {
    pub fn name(&self) -> &str {
        self.parts.last().map_or("", String::as_str)
    }

    pub fn is_folder(&self) -> bool {
        matches!(self.content, EntryContent::Folder)
    }

    /// Whether the name says that it is a picture which can be read.
    pub fn is_image(&self) -> bool {
        !self.is_folder() && has_extension(self.name(), &PICTURE_EXTENSIONS)
    }
}

impl Tree {
    /// Walks a folder, or reads an archive into memory.
    pub fn open(root: &Path, progress: Progress) -> Result<Self, DataError> {
        let found = std::fs::metadata(root).map_err(DataError::io("open", root))?;
        if found.is_dir() {
            return Self::walk(root);
        }
        Ok(Self::of(root, read_archive(root, progress)?, true))
    }

    /// Walks a folder.
    pub fn walk(root: &Path) -> Result<Self, DataError> {
        Ok(Self::of(root, walk(root)?, false))
    }

    fn of(root: &Path, mut entries: Vec<Entry>, is_archive: bool) -> Self {
        entries.sort_by(|a, b| a.parts.cmp(&b.parts));
        Self {
            root: root.to_path_buf(),
            entries,
            is_archive,
        }
    }

    /// The bytes of a file.
    pub fn read<'a>(&self, entry: &'a Entry) -> Result<Cow<'a, [u8]>, DataError> {
        Ok(match &entry.content {
            EntryContent::File(path) => {
                let limit = size_limit(entry.name()).unwrap_or(BINARY_LIMIT);
                Cow::Owned(regular_file::read(path, limit)?)
            }
            EntryContent::Bytes(bytes) => Cow::Borrowed(bytes),
            EntryContent::Folder | EntryContent::Unread => Cow::Borrowed(&[]),
        })
    }

    /// The entry as an error should name it.
    pub fn describe(&self, parts: &[String]) -> String {
        let below = parts.join("/");
        if self.is_archive {
            format!("{}: {below}", self.root.display())
        } else {
            self.root.join(below).display().to_string()
        }
    }

    /// The first few names at the top, for an error that says what was found.
    pub fn sample(&self) -> String {
        let mut names: Vec<_> = self.entries.iter().map(|e| e.parts[0].as_str()).collect();
        names.dedup();
        listing(&names, "nothing")
    }
}

/// Up to five names for a message, or `none`.
pub(crate) fn listing(names: &[impl AsRef<str>], none: &str) -> String {
    const SHOWN: usize = 5;
    if names.is_empty() {
        return none.into();
    }
    let shown = names.iter().take(SHOWN);
    let shown: Vec<_> = shown.map(|name| printable_text(name.as_ref())).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

fn has_extension(name: &str, extensions: &[&str]) -> bool {
    Path::new(name).extension().is_some_and(|found| {
        extensions
            .iter()
            .any(|extension| found.eq_ignore_ascii_case(extension))
    })
}

fn walk(root: &Path) -> Result<Vec<Entry>, DataError> {
    WalkDir::new(root)
        .min_depth(1)
        .follow_links(true)
        .into_iter()
        .filter_entry(|found| {
            found.depth() == 0 || !is_hidden(&found.file_name().to_string_lossy())
        })
        .filter_map(|found| match found {
            Ok(found) => {
                let (parts, not_unicode) = parts_below(root, found.path());
                let content = if found.file_type().is_dir() {
                    EntryContent::Folder
                } else {
                    EntryContent::File(found.into_path())
                };
                Some(Ok(Entry {
                    parts,
                    not_unicode,
                    content,
                }))
            }
            Err(error) => unwalked(root, error).transpose(),
        })
        .collect()
}

/// The parts of a path below the root, and the first one whose bytes are no text.
fn parts_below(root: &Path, path: &Path) -> (Vec<String>, Option<usize>) {
    let below = path.strip_prefix(root).unwrap_or(path);
    parts_of(below.iter().map(OsStr::as_encoded_bytes))
}

fn parts_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, Option<usize>) {
    let (parts, are_unicode): (Vec<String>, Vec<bool>) = parts.map(in_unicode).unzip();
    (
        parts,
        are_unicode.iter().position(|&is_unicode| !is_unicode),
    )
}

/// What stands where the walk could not go: a link that leads nowhere is a file that cannot be read, and one that leads
/// back to where the walk came from shows nothing new.
fn unwalked(root: &Path, error: walkdir::Error) -> Result<Option<Entry>, DataError> {
    let path = error.path().unwrap_or(root).to_path_buf();
    if error.loop_ancestor().is_some() {
        tracing::warn!(
            "ignored {}: the link leads to a folder around it",
            printable(&path)
        );
        return Ok(None);
    }
    if error.depth() == 0 || !path.is_symlink() {
        return Err(DataError::io("read", &path)(error.into()));
    }
    let (parts, not_unicode) = parts_below(root, &path);
    let entry = Entry {
        parts,
        not_unicode,
        content: EntryContent::File(path),
    };
    Ok(Some(entry).filter(|entry| !is_hidden(entry.name())))
}

fn read_archive(path: &Path, progress: Progress) -> Result<Vec<Entry>, DataError> {
    let broken = |reason: io::Error| DataError::Archive {
        path: path.to_path_buf(),
        reason: match reason.kind() {
            io::ErrorKind::UnexpectedEof => "it ends too early".into(),
            _ => reason.to_string(),
        },
    };
    let mut file = regular_file::open(path)?;
    let size = file.metadata().map_err(DataError::io("open", path))?.len();
    let mut magic = Vec::new();
    file.by_ref()
        .take(262)
        .read_to_end(&mut magic)
        .and_then(|_| file.rewind())
        .map_err(DataError::io("read", path))?;

    let meter = Meter::new(
        progress,
        format!("reading {}", printable(path)),
        Unit::Bytes,
        Some(size),
    );
    let file = BufReader::with_capacity(1 << 16, meter.reader(file));
    let mut reader: Box<dyn Read> = if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(file))
    } else if magic.get(257..262) == Some(b"ustar") {
        Box::new(file)
    } else {
        return Err(DataError::Archive {
            path: path.to_path_buf(),
            reason: "its content is neither gzip nor tar".into(),
        });
    };

    let mut archive = tar::Archive::new(&mut reader);
    let mut entries: Vec<Entry> = Vec::new();
    let mut places: HashMap<Vec<String>, usize> = HashMap::new();
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !is_safe(&name) {
            return Err(DataError::UnsafeEntry {
                path: path.to_path_buf(),
                entry: name,
            });
        }
        let bytes = entry.path_bytes().into_owned();
        let parts = bytes.split(|&byte| byte == b'/');
        let (parts, not_unicode) = parts_of(parts.filter(|part| !matches!(part, [] | [b'.'])));
        if parts.is_empty() || parts.iter().any(|part| is_hidden(part)) {
            continue;
        }
        let content = match entry.header().entry_type() {
            kind if kind.is_dir() => EntryContent::Folder,
            kind if kind.is_file() => match size_limit(&name) {
                Some(limit) if entry.size() > limit => {
                    return Err(DataError::EntryTooLarge {
                        path: path.to_path_buf(),
                        entry: name,
                        found: entry.size(),
                        limit,
                    });
                }
                Some(limit) => {
                    let expected = entry.size();
                    let mut bytes = Vec::new();
                    entry.take(limit).read_to_end(&mut bytes).map_err(broken)?;
                    if (bytes.len() as u64) < expected {
                        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
                    }
                    EntryContent::Bytes(bytes)
                }
                None => EntryContent::Unread,
            },
            _ => continue,
        };
        let entry = Entry {
            parts,
            not_unicode,
            content,
        };
        // Of several members with one path the last one stays, as when an archive is unpacked.
        match places.entry(entry.parts.clone()) {
            hash_map::Entry::Occupied(place) => entries[*place.get()] = entry,
            hash_map::Entry::Vacant(place) => {
                place.insert(entries.len());
                entries.push(entry);
            }
        }
    }
    // Only at its very end does a gzip file prove that it is whole.
    io::copy(&mut reader, &mut io::sink()).map_err(broken)?;
    Ok(entries)
}

/// Does a path stay in the archive?
fn is_safe(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// How many bytes a file of this name may have; `None` where no source reads such files.
fn size_limit(name: &str) -> Option<u64> {
    if has_extension(name, &PICTURE_EXTENSIONS) {
        Some(MAX_PICTURE_BYTES)
    } else if has_extension(name, &["bin"])
        || name.ends_with("names.txt")
        || name.ends_with("meta.txt")
    {
        Some(BINARY_LIMIT)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
