//! What a training needs beside its config, and how it ends.

use std::path::PathBuf;
use std::time::Duration;

use apt_data::Progress;
use burn::tensor::Device;

use super::devices::Devices;
use super::stop::{Pause, StopRequest};
use super::summary::Summary;
use crate::run::RunFolder;

/// What a training needs beside its config.
pub struct TrainOptions {
    /// The user's data; where absent, what a resumed run had, or downloaded or generated.
    pub data: Option<PathBuf>,
    /// Where it runs.
    pub devices: Devices,
    /// The memory that there is, in bytes: a training that needs more is refused. Of a GPU it is
    /// not known.
    pub memory: Option<u64>,
    /// Stop after so long, with a checkpoint.
    pub time_limit: Option<Duration>,
    /// Asks the training to stop.
    pub stop: StopRequest,
    /// Show the dashboard (on a terminal) or plain lines.
    pub dashboard: bool,
    /// Bars for loading and evaluation.
    pub progress: Progress,
}

impl Default for TrainOptions {
    /// On Burn's default device, without a limit, in plain lines.
    fn default() -> Self {
        Self {
            data: None,
            devices: Devices::single(Device::default()),
            memory: None,
            time_limit: None,
            stop: StopRequest::default(),
            dashboard: false,
            progress: Progress::Bar,
        }
    }
}

/// How a training ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// All of it was done, and measured on the test images.
    Finished(Box<Summary>),
    /// It stopped before, with a checkpoint from which it can go on.
    Paused {
        /// Why.
        reason: Pause,
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Steps done.
        step: u64,
        /// Steps to do in all.
        steps: usize,
    },
}

/// A training that was measured on nothing yet.
pub(crate) enum Trained {
    /// It is over.
    Finished(Box<RunFolder>),
    /// It was stopped before its last step.
    Paused(Outcome),
}
