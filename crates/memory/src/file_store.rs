//! A memory in one file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use apt_inference::{Checksum, write_whole};
use burn::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use crate::search::Index;
use crate::store::Store;
use crate::vote::ClassCounts;
use crate::{About, Entry, Label, MemoryError, Neighbor, Which};

/// The tensors of the file: features `[entries, width]`, and labels as JSON.
const FEATURES: &str = "features";
const LABELS: &str = "labels";
/// What stands in its header.
const ABOUT: &str = "about";
const CHECKSUM: &str = "checksum";

/// A memory in one file, as safetensors, and in main memory as a matrix. It is searched exactly.
///
/// Programs that change the same file take turns. What another program adds is seen by
/// [`open`](Self::open) alone.
pub struct FileStore {
    path: PathBuf,
    about: About,
    entries: Vec<Entry>,
    counts: ClassCounts,
    index: Index,
    device: Device,
}

impl FileStore {
    /// Reads a memory; `device` computes similarities.
    ///
    /// # Errors
    ///
    /// Where the file is no memory, or damaged.
    pub fn open(path: &Path, device: &Device) -> Result<Self, MemoryError> {
        let (about, entries) = read(path)?;
        Ok(Self::new(path, about, entries, device))
    }

    /// Writes a memory, in place of one that is there.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn create(
        path: &Path,
        about: About,
        entries: Vec<Entry>,
        device: &Device,
    ) -> Result<Self, MemoryError> {
        write(path, &about, &entries)?;
        Ok(Self::new(path, about, entries, device))
    }

    fn new(path: &Path, about: About, entries: Vec<Entry>, device: &Device) -> Self {
        let rows = entries.iter().map(|entry| entry.features.as_slice());
        let mut counts = ClassCounts::new();
        for entry in &entries {
            *counts.entry(entry.label.class.clone()).or_default() += 1;
        }
        Self {
            path: path.to_path_buf(),
            counts,
            index: Index::new(about.width(), rows, device),
            about,
            entries,
            device: device.clone(),
        }
    }

    /// Reads the file again, changes the entries, and writes them; nobody else does so meanwhile.
    fn change<T>(&mut self, change: impl FnOnce(&mut Vec<Entry>) -> T) -> Result<T, MemoryError> {
        let lock = self.path.with_added_extension("lock");
        let failed = |error: std::io::Error| MemoryError::file(&lock, error.to_string());
        let file = File::create(&lock).map_err(failed)?;
        file.lock().map_err(failed)?;
        let (about, mut entries) = read(&self.path)?;
        if about != self.about {
            let reason = "was built anew meanwhile: open it again";
            return Err(MemoryError::file(&self.path, reason));
        }
        let changed = change(&mut entries);
        write(&self.path, &about, &entries)?;
        *self = Self::new(&self.path, about, entries, &self.device);
        Ok(changed)
    }
}

impl Store for FileStore {
    fn about(&self) -> &About {
        &self.about
    }

    fn add(&mut self, entries: Vec<Entry>) -> Result<(), MemoryError> {
        self.change(|all| {
            let mut place_of: BTreeMap<String, usize> = BTreeMap::new();
            for (place, entry) in all.iter().enumerate() {
                place_of.insert(entry.label.id.clone(), place);
            }
            for entry in entries {
                match place_of.get(&entry.label.id) {
                    Some(&place) => all[place] = entry,
                    None => {
                        place_of.insert(entry.label.id.clone(), all.len());
                        all.push(entry);
                    }
                }
            }
        })
    }

    fn remove(&mut self, which: &Which) -> Result<usize, MemoryError> {
        self.change(|all| {
            let before = all.len();
            all.retain(|entry| !which.includes(&entry.label));
            before - all.len()
        })
    }

    fn list(&self) -> Result<Vec<Label>, MemoryError> {
        let labels = self.entries.iter();
        let mut labels: Vec<Label> = labels.map(|entry| entry.label.clone()).collect();
        labels.sort_by(|a, b| (&a.class, &a.source, &a.id).cmp(&(&b.class, &b.source, &b.id)));
        Ok(labels)
    }

    fn counts(&self) -> Result<ClassCounts, MemoryError> {
        Ok(self.counts.clone())
    }

    fn search_flops(&self) -> u64 {
        2 * (self.entries.len() * self.about.width()) as u64
    }

    fn nearest(
        &self,
        features: &[Vec<f32>],
        count: usize,
    ) -> Result<Vec<Vec<Neighbor>>, MemoryError> {
        let neighbor = |(entry, similarity): (usize, f32)| Neighbor {
            label: self.entries[entry].label.clone(),
            similarity,
        };
        let found = self.index.nearest(features, count).into_iter();
        Ok(found
            .map(|found| found.into_iter().map(neighbor).collect())
            .collect())
    }
}

fn write(path: &Path, about: &About, entries: &[Entry]) -> Result<(), MemoryError> {
    let failed = |error: &dyn std::fmt::Display| MemoryError::file(path, error.to_string());
    let values = entries.iter().flat_map(|entry| &entry.features);
    let features: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
    let labels: Vec<&Label> = entries.iter().map(|entry| &entry.label).collect();
    let labels = serde_json::to_vec(&labels).map_err(|error| failed(&error))?;
    let about_text = serde_json::to_string(about).map_err(|error| failed(&error))?;
    let checksum = checksum(&about_text, &features, &labels);
    let shape = vec![entries.len(), about.width()];
    let view =
        |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).map_err(|error| failed(&error));
    let tensors = [
        (FEATURES, view(Dtype::F32, shape, &features)?),
        (LABELS, view(Dtype::U8, vec![labels.len()], &labels)?),
    ];
    let header = [(ABOUT, about_text), (CHECKSUM, checksum)];
    let header = header.map(|(key, value)| (key.to_string(), value));
    let bytes = serialize(tensors, Some(header.into())).map_err(|error| failed(&error))?;
    Ok(write_whole(path, &bytes)?)
}

fn read(path: &Path) -> Result<(About, Vec<Entry>), MemoryError> {
    let wrong = |reason: &str| MemoryError::file(path, reason);
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            wrong("there is no such memory; `aptvit memory build` writes one")
        }
        _ => wrong(&error.to_string()),
    })?;
    let damaged = |error: &dyn std::fmt::Display| {
        wrong(&format!(
            "is no memory, or is damaged ({error}): expected a file of `aptvit memory build`"
        ))
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(&error))?;
    let header = header.metadata().clone().unwrap_or_default();
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&error))?;
    let tensor = |name| tensors.tensor(name).map_err(|error| damaged(&error));
    let (features, labels) = (tensor(FEATURES)?, tensor(LABELS)?);
    let text = |key| header.get(key).ok_or_else(|| damaged(&format!("no {key}")));
    let about_text = text(ABOUT)?;
    if *text(CHECKSUM)? != checksum(about_text, features.data(), labels.data()) {
        return Err(damaged(&"its checksum is another"));
    }
    let about = About::parse(about_text).map_err(|reason| wrong(&reason))?;
    let labels: Vec<Label> =
        serde_json::from_slice(labels.data()).map_err(|error| damaged(&error))?;
    let expected = [labels.len(), about.width()];
    if features.shape() != expected || features.dtype() != Dtype::F32 {
        let (dtype, shape) = (features.dtype(), features.shape());
        return Err(damaged(&format!(
            "its features are {dtype:?} {shape:?}, expected F32 {expected:?}"
        )));
    }
    let values = features.data().chunks_exact(4);
    let values: Vec<f32> = values
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    let rows = values.chunks_exact(about.width());
    let entries = labels.into_iter().zip(rows).map(|(label, features)| Entry {
        label,
        features: features.to_vec(),
    });
    Ok((about, entries.collect()))
}

fn checksum(about: &str, features: &[u8], labels: &[u8]) -> String {
    let parts = [about.as_bytes(), features, labels];
    let sums = parts.map(|part| String::from(Checksum::of_bytes(part)));
    sums.join(" ")
}
