//! Files of named tensors: `.npz`, safetensors (sharded too) and PyTorch's, told apart by what is
//! in them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use burn_store::{ModuleStore, PytorchStore, SafetensorsStore};
use npyz::{NpyFile, Order, TypeChar};
use serde::{Deserialize, Serialize};
use zip::{CompressionMethod, ZipArchive};

use super::stored::{SCALE, from_integers};
use super::{pickle, plain_file};
use crate::VitError;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightsFormat {
    /// NumPy's archive of arrays.
    Npz,
    /// Safetensors, one file or several with an index.
    Safetensors,
    /// What PyTorch's `torch.save` writes. Nothing in it is executed.
    Pytorch,
}

/// Named tensors, read one at a time.
pub(super) struct Tensors {
    pub path: PathBuf,
    pub format: WeightsFormat,
    /// Of the file, or of all shards.
    pub bytes: u64,
    source: Source,
}

enum Source {
    Npz(ZipArchive<BufReader<File>>),
    Stored(BTreeMap<String, burn_store::burn_pack::Tensor>),
}

/// Dictionaries in which checkpoints keep a model's weights beside other things.
const NESTED: [&str; 4] = ["model", "state_dict", "model_state_dict", "module"];

impl Tensors {
    /// A safetensors file in memory.
    pub fn from_safetensors(bytes: Vec<u8>) -> Result<Self, VitError> {
        let path = PathBuf::from("model.safetensors");
        let length = bytes.len() as u64;
        let mut store = SafetensorsStore::from_bytes(Some(bytes));
        let tensors = store
            .get_all_tensors()
            .map_err(|error| unreadable(&path, error))?;
        Ok(Self {
            source: Source::Stored(tensors.clone()),
            path,
            format: WeightsFormat::Safetensors,
            bytes: length,
        })
    }

    /// Opens a file, or a folder as Hugging Face lays one out.
    pub fn open(path: &Path) -> Result<Self, VitError> {
        let path = if path.is_dir() {
            [
                "model.safetensors.index.json",
                "model.safetensors",
                "pytorch_model.bin",
            ]
            .map(|name| path.join(name))
            .into_iter()
            .find(|file| file.is_file())
            .ok_or_else(|| {
                unreadable(
                    path,
                    "a folder without model.safetensors, model.safetensors.index.json or \
                         pytorch_model.bin",
                )
            })?
        } else {
            path.to_path_buf()
        };
        let failed = |error: &dyn Display| unreadable(&path, error);
        let mut file = plain_file::open(&path).map_err(|error| failed(&error))?;
        let mut start = Vec::new();
        let read = file.by_ref().take(9).read_to_end(&mut start);
        read.map_err(|error| failed(&error))?;
        let mut bytes = file.metadata().map_err(|error| failed(&error))?.len();
        let (format, source) = match start.as_slice() {
            [b'P', b'K', 3 | 5, ..] => {
                let file = File::open(&path).map_err(|error| failed(&error))?;
                let mut archive =
                    ZipArchive::new(BufReader::new(file)).map_err(|error| failed(&error))?;
                let pickled = {
                    let mut names = archive.file_names().flatten();
                    names
                        .find(|name| name.ends_with("data.pkl"))
                        .map(|name| name.to_string())
                };
                match pickled {
                    Some(name) => {
                        let entry = archive.by_name(&name).map_err(|error| failed(&error))?;
                        check_pickles(entry, 1).map_err(|error| failed(&error))?;
                        check_entries(&mut archive).map_err(|error| failed(&error))?;
                        (WeightsFormat::Pytorch, Source::Stored(pytorch(&path)?))
                    }
                    None => (WeightsFormat::Npz, Source::Npz(archive)),
                }
            }
            [_, _, _, _, _, _, _, _, b'{'] => (
                WeightsFormat::Safetensors,
                Source::Stored(safetensors(&path)?),
            ),
            [b'{', ..] => {
                let (tensors, length) = sharded(&path)?;
                bytes = length;
                (WeightsFormat::Safetensors, Source::Stored(tensors))
            }
            [0x80, ..] => {
                let file = File::open(&path).map_err(|error| failed(&error))?;
                check_pickles(file, LEGACY_PICKLES).map_err(|error| failed(&error))?;
                (WeightsFormat::Pytorch, Source::Stored(pytorch(&path)?))
            }
            _ => {
                return Err(failed(
                    &"neither .npz, nor safetensors (or its index), nor a PyTorch checkpoint",
                ));
            }
        };
        Ok(Self {
            path,
            format,
            bytes,
            source,
        })
    }

    /// Every tensor's name.
    pub fn names(&self) -> Vec<String> {
        match &self.source {
            Source::Npz(archive) => archive
                .file_names()
                .flatten()
                .map(|name| name.strip_suffix(".npy").unwrap_or(&name).to_string())
                .collect(),
            Source::Stored(tensors) => tensors.keys().cloned().collect(),
        }
    }

    pub fn contains(&self, name: &str) -> bool {
        match &self.source {
            Source::Npz(archive) => archive.index_for_name(&format!("{name}.npy")).is_some(),
            Source::Stored(tensors) => tensors.contains_key(name),
        }
    }

    /// A tensor's shape, if there is such a tensor.
    pub fn shape(&mut self, name: &str) -> Result<Option<Vec<usize>>, VitError> {
        if !self.contains(name) {
            return Ok(None);
        }
        match &mut self.source {
            Source::Npz(archive) => {
                let array = npz_entry(archive, &self.path, name)?;
                Ok(Some(
                    array.shape().iter().map(|&size| size as usize).collect(),
                ))
            }
            Source::Stored(tensors) => Ok(tensors.get(name).map(|tensor| tensor.shape.to_vec())),
        }
    }

    /// Is it what the integers of another tensor are multiplied by?
    pub fn is_scale(&self, name: &str) -> bool {
        match &self.source {
            Source::Npz(_) => false,
            Source::Stored(tensors) => {
                let integers = name.strip_suffix(SCALE).and_then(|name| tensors.get(name));
                integers.is_some_and(|tensor| tensor.dtype == DType::I8)
            }
        }
    }

    /// The values of a tensor whose shape is known to fit, in row-major order.
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>, VitError> {
        let path = self.path.clone();
        let corrupt = |error: &dyn Display| VitError::Read {
            path: path.clone(),
            reason: format!("tensor '{name}': {error}"),
        };
        let wrong_type = |found: String| VitError::WrongType {
            path: path.clone(),
            tensor: name.to_string(),
            found,
        };
        match &mut self.source {
            Source::Npz(archive) => {
                let mut entry = archive
                    .by_name(&format!("{name}.npy"))
                    .map_err(|error| corrupt(&error))?;
                let array = NpyFile::new(&mut entry).map_err(|error| corrupt(&error))?;
                if array.order() != Order::C {
                    return Err(corrupt(&"column-major order; expected row-major"));
                }
                let (float, bytes) = match array.dtype() {
                    npyz::DType::Plain(kind) => {
                        (kind.type_char() == TypeChar::Float, kind.num_bytes())
                    }
                    _ => (false, None),
                };
                let values = match (float, bytes) {
                    (true, Some(4)) => array.into_vec::<f32>().map_err(|error| corrupt(&error))?,
                    (true, Some(8)) => {
                        let values = array.into_vec::<f64>().map_err(|error| corrupt(&error))?;
                        values.into_iter().map(|value| value as f32).collect()
                    }
                    _ => return Err(wrong_type(array.dtype().descr())),
                };
                match check_end(&mut entry) {
                    Ok(()) => Ok(values),
                    Err(error) => Err(corrupt(&error)),
                }
            }
            Source::Stored(tensors) => {
                let tensor = tensors.get(name).ok_or_else(|| corrupt(&"is not there"))?;
                if tensor.dtype == DType::I8 {
                    let (bytes, shape) = (tensor.to_bytes(), tensor.shape.to_vec());
                    let bytes = bytes.map_err(|error| corrupt(&error))?;
                    let scale = format!("{name}{SCALE}");
                    let has_scales = tensors
                        .get(&scale)
                        .is_some_and(|scale| scale.dtype == DType::F32);
                    if !has_scales {
                        let reason = format!(
                            "8-bit integers without their scales, 32-bit floats in '{scale}'"
                        );
                        return Err(corrupt(&reason));
                    }
                    let scales = self.read(&scale)?;
                    return from_integers(&bytes, &shape, &scales).map_err(|error| corrupt(&error));
                }
                if !matches!(
                    tensor.dtype,
                    DType::F32 | DType::F64 | DType::F16 | DType::BF16
                ) {
                    return Err(wrong_type(format!("{:?}", tensor.dtype)));
                }
                let bytes = tensor.to_bytes().map_err(|error| corrupt(&error))?;
                let data = TensorData::from_bytes(bytes, tensor.shape.clone(), tensor.dtype);
                let values = data.convert::<f32>().try_into_vec::<f32>();
                values.map_err(|error| corrupt(&format!("{error:?}")))
            }
        }
    }
}

/// An array's header; its values are read later.
fn npz_entry<'a>(
    archive: &'a mut ZipArchive<BufReader<File>>,
    path: &Path,
    name: &str,
) -> Result<NpyFile<impl Read + use<'a>>, VitError> {
    let corrupt = |error: &dyn Display| VitError::Read {
        path: path.to_path_buf(),
        reason: format!("tensor '{name}': {error}"),
    };
    let entry = archive
        .by_name(&format!("{name}.npy"))
        .map_err(|error| corrupt(&error))?;
    NpyFile::new(entry).map_err(|error| corrupt(&error))
}

/// What to do about an entry that is not what was written.
const DAMAGED: &str = "the file is damaged; copy or download it again";

/// Asks an array whose values were read for more. There is none, and only at an entry's end is its checksum (CRC-32)
/// compared.
///
/// # Errors
///
/// Where there is more, or the entry is another one than was written.
fn check_end(entry: &mut impl Read) -> Result<(), String> {
    match entry.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(format!("more bytes than its shape says: {DAMAGED}")),
        Err(error) => Err(format!("{error}: {DAMAGED}")),
    }
}

/// Compares the checksums of all values in a PyTorch checkpoint: what reads them does not. They are stored as they are;
/// what is compressed may be a bomb, and is not unpacked here.
///
/// # Errors
///
/// Names the first entry that is another one than was written.
fn check_entries(archive: &mut ZipArchive<BufReader<File>>) -> Result<(), String> {
    for place in 0..archive.len() {
        let mut entry = archive.by_index(place).map_err(|error| error.to_string())?;
        if entry.compression() != CompressionMethod::Stored {
            continue;
        }
        if let Err(error) = io::copy(&mut entry, &mut io::sink()) {
            let name = entry.name().map_err(|error| error.to_string())?;
            return Err(format!("entry '{name}': {error}: {DAMAGED}"));
        }
    }
    Ok(())
}

/// Before version 1.6, PyTorch wrote a magic number, a version, the system's sizes, the object and
/// the storages' keys, one pickle after another, and then the values.
const LEGACY_PICKLES: usize = 5;

/// Refuses pickles that would call something, reading no more than a model's names need.
fn check_pickles(file: impl Read, count: usize) -> Result<(), String> {
    const MOST: u64 = 64 << 20;
    let mut bytes = Vec::new();
    let read = file.take(MOST).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    pickle::check(&bytes, count)
}

type Stored = BTreeMap<String, burn_store::burn_pack::Tensor>;

fn safetensors(path: &Path) -> Result<Stored, VitError> {
    let mut store = SafetensorsStore::from_file(path);
    let tensors = store
        .get_all_tensors()
        .map_err(|error| unreadable(path, error))?;
    Ok(tensors.clone())
}

/// All shards that an index names, and their length; they lie beside it.
fn sharded(path: &Path) -> Result<(Stored, u64), VitError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = plain_file::read_text(path).map_err(|error| unreadable(path, error))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| unreadable(path, format!("not an index of safetensors: {error}")))?;
    let mut shards: Vec<&String> = index.weight_map.values().collect();
    shards.sort();
    shards.dedup();
    let mut tensors = Stored::new();
    let mut bytes = 0;
    for shard in shards {
        if Path::new(shard).components().count() != 1 || shard.starts_with('.') {
            return Err(unreadable(path, format!("'{shard}' is no file beside it")));
        }
        let shard = path.with_file_name(shard);
        plain_file::check(&shard).map_err(|error| unreadable(&shard, error))?;
        tensors.extend(safetensors(&shard)?);
        bytes += shard.metadata().map_or(0, |metadata| metadata.len());
    }
    match index
        .weight_map
        .keys()
        .find(|name| !tensors.contains_key(*name))
    {
        Some(name) => Err(unreadable(path, format!("no shard holds tensor '{name}'"))),
        None => Ok((tensors, bytes)),
    }
}

/// The tensors of a PyTorch checkpoint, or of the dictionary in it that holds the model.
fn pytorch(path: &Path) -> Result<Stored, VitError> {
    let mut result = PytorchStore::from_file(path).get_all_tensors().cloned();
    if !result.as_ref().is_ok_and(|tensors| tensors.len() > 1) {
        for key in NESTED {
            let nested = PytorchStore::from_file(path)
                .with_top_level_key(key)
                .get_all_tensors()
                .cloned();
            if nested.as_ref().is_ok_and(|tensors| tensors.len() > 1) {
                result = nested;
                break;
            }
        }
    }
    result.map_err(|error| unreadable(path, error))
}

pub(super) fn unreadable(path: &Path, error: impl Display) -> VitError {
    VitError::Read {
        path: path.to_path_buf(),
        reason: error.to_string(),
    }
}
