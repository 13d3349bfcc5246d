//! A part of a data set's archive: as many images of each class, of train and of test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tar::{Archive, Builder, EntryType};

/// How many images are taken along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Images {
    /// The archive as it is.
    All,
    /// So many together.
    Together(usize),
}

impl FromStr for Images {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(count)) if count > 0 => Ok(Self::Together(count)),
            _ => Err("expected a number of images, or all".to_string()),
        }
    }
}

/// Copies them in the archive's order. Returns how many there are.
pub fn copy(from: &Path, images: &Images, to: &Path) -> Result<usize> {
    let groups = groups(from)?;
    let there: usize = groups.values().sum();
    let together = match images {
        Images::All => {
            fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
            return Ok(there);
        }
        Images::Together(together) => *together,
    };
    let each = together / groups.len();
    let least = groups.iter().min_by_key(|(_, count)| **count);
    if let Some((group, &least)) = least
        && (each == 0 || each > least)
    {
        bail!(
            "--images {together}: that is {each} of each class, of train and of test; {} has {} of these \
             groups, and {group} has {least} images: expected {} to {}, or all",
            from.display(),
            groups.len(),
            groups.len(),
            least * groups.len()
        );
    }
    let mut left: BTreeMap<String, usize> = groups.into_keys().map(|group| (group, each)).collect();
    let taken = each * left.len();
    let file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut copied = Builder::new(GzEncoder::new(file, Compression::best()));
    for entry in open(from)?.entries()? {
        let entry = entry?;
        let mut header = entry.header().clone();
        let path = entry.path()?.into_owned();
        let Some(left) = group(&path).and_then(|group| left.get_mut(&group)) else {
            continue;
        };
        if header.entry_type() == EntryType::Regular && *left > 0 {
            *left -= 1;
            copied.append_data(&mut header, path, entry)?;
        }
    }
    copied.into_inner()?.finish()?;
    Ok(taken)
}

fn open(path: &Path) -> Result<Archive<GzDecoder<BufReader<File>>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Archive::new(GzDecoder::new(BufReader::new(file))))
}

/// How many images there are of each class, of train and of test.
fn groups(path: &Path) -> Result<BTreeMap<String, usize>> {
    let mut groups = BTreeMap::new();
    let entries = open(path)?;
    let mut entries = entries;
    let entries = entries.entries();
    for entry in entries.with_context(|| format!("cannot read {}", path.display()))? {
        let entry = entry.with_context(|| format!("{}: expected a tgz", path.display()))?;
        if entry.header().entry_type() == EntryType::Regular
            && let Some(group) = group(&entry.path()?)
        {
            *groups.entry(group).or_default() += 1;
        }
    }
    if groups.is_empty() {
        bail!(
            "{}: expected images as NAME/train/CLASS/*.jpg and NAME/test/CLASS/*.jpg; found none",
            path.display()
        );
    }
    Ok(groups)
}

/// `cifar10/train/cat/0001.jpg` belongs to `train/cat`.
fn group(path: &Path) -> Option<String> {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    match parts.as_slice() {
        [_, split, class, _] if *split == "train" || *split == "test" => {
            Some(format!("{split}/{class}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of images with these names, in a folder of its own.
    fn archive(name: &str, paths: &[String]) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("apt-images-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("all.tgz");
        let mut builder = Builder::new(GzEncoder::new(
            File::create(&file).unwrap(),
            Compression::fast(),
        ));
        for path in paths {
            let mut header = tar::Header::new_gnu();
            header.set_size(path.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, path, path.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap();
        file
    }

    fn names(path: &Path) -> Vec<String> {
        let mut archive = open(path).unwrap();
        let entries = archive.entries().unwrap();
        let name = |entry: tar::Entry<'_, _>| entry.path().unwrap().display().to_string();
        entries.map(|entry| name(entry.unwrap())).collect()
    }

    fn cifar() -> Vec<String> {
        let mut paths = Vec::new();
        for (split, count) in [("test", 2), ("train", 4)] {
            for class in ["cat", "dog"] {
                paths.extend((0..count).map(|i| format!("cifar10/{split}/{class}/{i}.jpg")));
            }
        }
        paths
    }

    #[test]
    fn as_many_of_each_class_are_copied_in_the_archives_order() {
        let from = archive("each", &cifar());
        let to = from.with_file_name("some.tgz");
        assert_eq!(copy(&from, &Images::Together(5), &to).unwrap(), 4);
        assert_eq!(
            names(&to),
            ["test/cat", "test/dog", "train/cat", "train/dog"]
                .map(|group| format!("cifar10/{group}/0.jpg"))
        );
        assert_eq!(copy(&from, &Images::All, &to).unwrap(), 12);
        assert_eq!(names(&to), cifar());
        fs::remove_dir_all(from.parent().unwrap()).unwrap();
    }

    #[test]
    fn more_than_there_are_of_a_class_are_refused() {
        let from = archive("more", &cifar());
        let to = from.with_file_name("some.tgz");
        for count in [3, 12] {
            let error = copy(&from, &Images::Together(count), &to).unwrap_err();
            assert!(error.to_string().contains("expected 4 to 8"), "{error}");
        }
        fs::remove_dir_all(from.parent().unwrap()).unwrap();
    }

    #[test]
    fn how_many_is_a_number_or_all() {
        assert_eq!("all".parse(), Ok(Images::All));
        assert_eq!("2000".parse(), Ok(Images::Together(2000)));
        for text in ["0", "-1", "some", ""] {
            assert!(text.parse::<Images>().is_err(), "{text}");
        }
    }
}
