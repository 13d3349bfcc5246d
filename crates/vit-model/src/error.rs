use std::path::PathBuf;

use crate::printable;

/// What can go wrong when a model is configured or its weights are read.
#[derive(Debug, thiserror::Error)]
pub enum VitError {
    /// A model's sizes do not fit together.
    #[error("model config: {field} = {found}: {expected}")]
    Config {
        /// The field of [`VitConfig`](crate::VitConfig).
        field: &'static str,
        /// Its value.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// No preset has this name.
    #[error("no model preset is called '{name}'; the presets are: {known}")]
    UnknownPreset {
        /// The name asked for.
        name: String,
        /// Every valid name.
        known: String,
    },
    /// A weights file could not be opened or read.
    #[error("{}: cannot read the weights: {reason}", printable(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// A framework has no model like this one.
    #[error("{framework} has no model with {what}; export it with {other} names")]
    NotExportable {
        /// The framework.
        framework: &'static str,
        /// What it lacks.
        what: &'static str,
        /// Whose names to take instead.
        other: &'static str,
    },
    /// A weights file could not be written.
    #[error("{}: cannot write the weights: {reason}", printable(path))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A tensor that the model needs is not in the file.
    #[error(
        "{}: tensor '{tensor}' is missing (expected shape {expected:?})",
        printable(path)
    )]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file's own naming.
        tensor: String,
        /// The shape that the model expects.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the model's config says.
    #[error(
        "{}: tensor '{tensor}' has shape {found:?}, but this model expects {expected:?}; check the model's preset and sizes",
        printable(path)
    )]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file's own naming.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that the model expects.
        expected: Vec<usize>,
    },
    /// A tensor for which the model has no place.
    #[error(
        "{}: tensor '{tensor}' of shape {found:?} has no place in this model; check the model's sizes",
        printable(path)
    )]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file's own naming.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor holds something other than floats.
    #[error(
        "{}: tensor '{tensor}' has element type {found}; expected floats of 16, 32 or 64 bits",
        printable(path)
    )]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file's own naming.
        tensor: String,
        /// The element type in the file.
        found: String,
    },
}
