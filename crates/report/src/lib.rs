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
mod style;
mod subject;
mod tensorboard;
mod write;

pub use error::ReportError;
pub use passes::PassSettings;
pub use picture::Pictures;
pub use pruning::Pruning;
pub use tensorboard::log_kept_patches;
pub use write::{FILE, report, write};
