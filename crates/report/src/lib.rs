#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod chart;
mod document;
mod drawings;
mod error;
mod folder;
mod metrics;
mod number;
mod page;
mod passes;
mod picture;
mod pruning;
mod section;
mod shell;
mod style;
mod subject;
mod tensorboard;
mod training;
mod write;

pub use error::ReportError;
pub use passes::PassSettings;
pub use picture::Pictures;
pub use pruning::Pruning;
pub use shell::quoted;
pub use write::{AfterTraining, FILE, report, write, write_after_training};
