//! Options of every command.

use apt_vit_model::Precision;
use clap::Parser;

use crate::device::DeviceChoice;
use crate::values::{log_filter, precision, threads};

/// Options of every command.
#[derive(Debug, Parser)]
pub struct Global {
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads that compute [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Where to compute: auto, flex, wgpu, tch, tch:cuda or cuda, with :1 behind it for the second
    /// GPU; `aptvit info` lists what is there. `train` takes several, with commas, and
    /// remote:HOST:PORT for what `aptvit lend` lends there
    #[arg(
        long,
        global = true,
        value_name = "DEVICE",
        default_value = "auto",
        hide_default_value = true
    )]
    pub device: DeviceChoice,
    /// In which floats to compute: f32, bf16 or f16; sums, norms, softmax and loss stay in f32
    /// [default: the config's or the run's, else f32]
    #[arg(long, global = true, value_name = "TYPE", value_parser = precision)]
    pub dtype: Option<Precision>,
    /// What to log to stderr: error, warn, info, debug, or a tracing filter
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn", value_parser = log_filter)]
    pub log: String,
}
