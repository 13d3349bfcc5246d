use super::*;
use crate::samples::{gzip, header, tar_gz, write_files};

fn open(bytes: &[u8]) -> Result<Tree, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.tgz");
    std::fs::write(&path, bytes).unwrap();
    Tree::open(&path, Progress::Hidden)
}

fn names(tree: &Tree) -> Vec<String> {
    let files = tree.entries.iter().filter(|entry| !entry.is_folder());
    files.map(|entry| entry.parts.join("/")).collect()
}

fn files() -> Vec<(String, Vec<u8>)> {
    ["b/2.png", "b/1.png", "a/notes.md", "a/.hidden.png"]
        .map(|name| (name.into(), name.into()))
        .into()
}

#[test]
fn a_folder_and_its_archive_look_alike() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), &files());
    let on_disk = Tree::open(folder.path(), Progress::Hidden).unwrap();
    let packed = open(&tar_gz(&files())).unwrap();
    assert_eq!(names(&on_disk), ["a/notes.md", "b/1.png", "b/2.png"]);
    assert_eq!(names(&on_disk), names(&packed));
    for tree in [&on_disk, &packed] {
        let last = tree.entries.last().unwrap();
        assert_eq!(&*tree.read(last).unwrap(), b"b/2.png");
    }
}

#[test]
fn an_archive_cut_anywhere_is_an_error_that_says_so() {
    // Noise, so that each cut falls into data.
    let noise: Vec<u8> = (0..4000).map(|i| crate::mix_seed(&[i]) as u8).collect();
    let whole = tar_gz(&[("train/cat/a.png".into(), noise)]);
    for kept in [whole.len() / 3, whole.len() - 60, whole.len() - 4] {
        let error = open(&whole[..kept])
            .err()
            .expect("a cut archive was accepted");
        assert!(matches!(error, DataError::Archive { .. }), "{error}");
        assert!(error.to_string().contains("too early"), "{error}");
    }
}

#[test]
fn a_flipped_bit_is_noticed() {
    let mut bytes = tar_gz(&files());
    let last = bytes.len() - 6;
    bytes[last] ^= 1;
    assert!(matches!(open(&bytes), Err(DataError::Archive { .. })));
}

#[test]
fn a_text_file_is_no_archive() {
    let error = open(b"not an archive").err().unwrap();
    assert!(
        error.to_string().contains("neither gzip nor tar"),
        "{error}"
    );
}

#[test]
fn an_entry_outside_of_the_archive_is_refused() {
    for name in ["../../evil.png", "/etc/evil.png", "a/../../evil.png"] {
        let mut header = header(0);
        // The builder itself refuses such paths.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, io::empty()).unwrap();
        let error = open(&gzip(&archive.into_inner().unwrap())).err().unwrap();
        assert!(matches!(error, DataError::UnsafeEntry { .. }), "{error}");
        assert!(error.to_string().contains("evil.png"), "{error}");
    }
}

#[test]
fn a_huge_entry_is_refused_before_it_is_read() {
    let mut header = header(MAX_PICTURE_BYTES + 1);
    header.set_path("train/cat/huge.png").unwrap();
    header.set_cksum();
    let error = open(&gzip(header.as_bytes())).err().unwrap();
    assert!(matches!(error, DataError::EntryTooLarge { .. }), "{error}");
    assert!(error.to_string().contains("huge.png"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn neither_a_pipe_nor_a_device_is_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("images.tgz");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for (path, kind) in [(pipe.as_path(), "pipe"), (Path::new("/dev/zero"), "device")] {
        let error = Tree::open(path, Progress::Hidden).err().unwrap();
        assert!(error.to_string().contains(kind), "{error}");
    }
}

#[test]
fn of_two_members_with_one_path_the_last_one_is_there_once() {
    let members = [("a/1.png", "old"), ("a/2.png", "two"), ("./a/1.png", "new")];
    let members = members.map(|(name, bytes)| (name.to_string(), bytes.into()));
    let tree = open(&tar_gz(&members)).unwrap();
    assert_eq!(names(&tree), ["a/1.png", "a/2.png"]);
    assert_eq!(&*tree.read(&tree.entries[0]).unwrap(), b"new");
}

#[test]
fn names_in_an_archive_that_are_no_text_stay_apart() {
    let mut archive = tar::Builder::new(Vec::new());
    for name in [&b"a/\xff.png"[..], b"a/\xfe.png"] {
        let mut header = header(0);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_cksum();
        archive.append(&header, io::empty()).unwrap();
    }
    let tree = open(&gzip(&archive.into_inner().unwrap())).unwrap();
    assert_eq!(names(&tree), [r"a/\xfe.png", r"a/\xff.png"]);
    assert_eq!(tree.entries[0].not_unicode, Some(1));
}

#[test]
fn a_missing_path_is_named() {
    let error = Tree::open(Path::new("no/such/folder"), Progress::Hidden)
        .err()
        .unwrap();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}
