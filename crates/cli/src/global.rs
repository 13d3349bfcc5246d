//! Options of every command.

use anyhow::{Result, bail};
use apt_vit_model::Precision;
use apt_vit_model::fused::computes_here;
use burn::tensor::Device;
use clap::Parser;

use crate::device::DeviceChoice;
use crate::values::{Dtype, dtype, log_filter, threads};

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
    /// In what to compute: f32, bf16, f16 or, without training, int8; sums, norms, softmax and loss stay in f32.
    /// auto takes the fastest that keeps a model's answers on this device, and says which
    /// [default: the config's or the run's, else f32]
    #[arg(long = "dtype", global = true, value_name = "TYPE", value_parser = dtype)]
    dtype_choice: Option<Dtype>,
    /// The decision of `choose_dtype`; none is the default.
    #[arg(skip)]
    pub dtype: Option<Precision>,
    /// What to log to stderr: error, warn, info, debug, or a tracing filter
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn", value_parser = log_filter)]
    pub log: String,
}

impl Global {
    /// Decides what `--dtype` comes to on the device; `trains` says whether gradients will be needed.
    ///
    /// # Errors
    ///
    /// Where a training is to be in integers.
    pub fn choose_dtype(&mut self, device: impl FnOnce() -> Device, trains: bool) -> Result<()> {
        let chosen = match self.dtype_choice {
            None => return Ok(()),
            Some(Dtype::Given(precision)) => {
                let is_short = matches!(precision, Precision::Bf16 | Precision::F16);
                if is_short && precision.instructions().is_none() && computes_here(&device()) {
                    let name = precision.name();
                    eprintln!(
                        "--dtype {name}: this CPU has no instructions for {name}: it is computed in 32-bit \
                         floats and rounded, which is slower than f32. --dtype auto takes the fastest"
                    );
                }
                precision
            }
            Some(Dtype::Auto) => {
                let device = device();
                let here = computes_here(&device);
                // What a training in bfloat16 comes to in accuracy was not compared yet.
                let fastest = if trains && here {
                    Precision::F32
                } else {
                    Precision::fastest(&device)
                };
                let by = fastest.instructions().filter(|_| here);
                let by = by.map_or(String::new(), |by| format!(" ({by})"));
                eprintln!("--dtype auto: {}{by}", fastest.name());
                fastest
            }
        };
        if trains && chosen == Precision::Int8 {
            bail!("--dtype int8: integers have no gradients; train in f32, bf16 or f16");
        }
        self.dtype = Some(chosen);
        Ok(())
    }
}
