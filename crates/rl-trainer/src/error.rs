use std::any::Any;
use std::path::PathBuf;

use apt_data::DataError;
use apt_inference::InferenceError;
use apt_pruning_agent::AgentError;
use apt_vit_model::{VitError, printable};

/// What can go wrong between a config and a trained model.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// A config file or a `--set` that does not parse, or a field of the wrong type.
    #[error("{origin}: {reason}")]
    Config {
        /// The file, or the override.
        origin: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A field whose value cannot be used.
    #[error("config field {field} = {found}: {expected}")]
    Field {
        /// The field's path.
        field: String,
        /// Its value.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// Several such fields, each a [`Field`](Self::Field).
    #[error("{}", lines(.0))]
    Fields(Vec<TrainerError>),
    /// A file or folder could not be read or written.
    #[error("{}: cannot {action}: {source}", printable(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The run folder is not one, or is not complete.
    #[error("{}: {reason}", printable(path))]
    RunFolder {
        /// The folder.
        path: PathBuf,
        /// What is missing, and what to do.
        reason: String,
    },
    /// A checkpoint could not be written or read.
    #[error("{}: checkpoint: {reason}", printable(path))]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The loss is not a number any more.
    #[error(
        "the loss became {loss} at step {step}; lower optimizer.learning_rate or lengthen schedule.warmup_steps. The last good checkpoint is kept: {checkpoint}"
    )]
    Diverged {
        /// The optimiser step, 1-based.
        step: u64,
        /// The loss.
        loss: f32,
        /// Which checkpoint there is.
        checkpoint: String,
    },
    /// A device ran out of memory in a training.
    #[error(
        "out of memory: {0}\nlower train.batch_size (and raise train.grad_accumulation_steps by as much: the update stays the same), train.eval_batch_size for evaluations, or the image size; or set train.gradient_checkpointing = true"
    )]
    OutOfMemory(String),
    /// A device ran out of memory outside of a training.
    #[error(
        "out of memory: {0}\ncompute fewer images at a time (--batch-size, or --batch of bench), smaller ones, or in fewer bits (--dtype bf16)"
    )]
    OutOfMemoryInInference(String),
    /// A device failed: it panicked, or another process that computes cannot be reached any more.
    #[error("a device failed: {reason}. The last good checkpoint is kept: {checkpoint}")]
    Device {
        /// What it said.
        reason: String,
        /// Which checkpoint there is.
        checkpoint: String,
    },
    /// No threshold meets a compute budget.
    #[error(
        "{target} of the FLOPs cannot be met: this run's policy can compute from {least:.3} to {most:.3} of the dense model's"
    )]
    Budget {
        /// The share of the dense model's FLOPs that was asked for.
        target: f64,
        /// The least that the policy can compute.
        least: f64,
        /// The most.
        most: f64,
    },
    /// A file of a sweep cannot be used or made.
    #[error("{}: {reason}", printable(path))]
    Sweep {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// burn-train stopped for a reason of its own.
    #[error("training stopped: {0}")]
    Training(String),
    /// A model cannot be pruned as it was asked for.
    #[error("cannot prune: {0}")]
    Pruning(String),
    /// About the images.
    #[error(transparent)]
    Data(#[from] DataError),
    /// About the model or its weights.
    #[error(transparent)]
    Vit(#[from] VitError),
    /// About the policy. Its settings are keys of the config: [`Field`](Self::Field).
    #[error(transparent)]
    Agent(AgentError),
    /// About a run's folder, a checkpoint or a budget.
    #[error(transparent)]
    Inference(#[from] InferenceError),
}

impl From<AgentError> for TrainerError {
    fn from(error: AgentError) -> Self {
        // "policy.KEY = FOUND: EXPECTED", as of every field.
        let text = error.to_string();
        let parts = matches!(
            error,
            AgentError::Layers { .. } | AgentError::Setting { .. }
        )
        .then(|| text.split_once(": "))
        .flatten()
        .and_then(|(said, expected)| Some((said.split_once(" = ")?, expected)));
        match parts {
            Some(((field, found), expected)) => Self::field(field, found, expected),
            None => Self::Agent(error),
        }
    }
}

impl TrainerError {
    /// A field whose value cannot be used.
    pub fn field(field: &str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// All of some errors as one.
    ///
    /// # Errors
    ///
    /// Where there are any.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.pop() {
            None => Ok(()),
            Some(only) if errors.is_empty() => Err(only),
            Some(last) => {
                errors.push(last);
                Err(Self::Fields(errors))
            }
        }
    }

    /// An error of a model's sizes, as one of the config's `[model]`.
    pub(crate) fn of_model(error: VitError) -> Self {
        match error {
            // The number of classes comes from the data.
            VitError::Config {
                field,
                found,
                expected,
            } if field != "num_classes" => Self::field(&format!("model.{field}"), found, expected),
            other => other.into(),
        }
    }

    /// The same of memory that runs out, outside of a training.
    pub fn in_inference(self) -> Self {
        match self {
            Self::OutOfMemory(reason) => Self::OutOfMemoryInInference(reason),
            other => other,
        }
    }

    /// The error behind a panic of a backend.
    pub fn of_panic(payload: &(dyn Any + Send), checkpoint: String) -> Self {
        let reason = payload.downcast_ref::<String>().map(String::as_str);
        let reason = reason.or(payload.downcast_ref::<&str>().copied());
        Self::of_device(reason.unwrap_or("it gave no reason"), checkpoint)
    }

    /// The error behind what a backend said when it failed.
    pub(crate) fn of_device(reason: &str, checkpoint: String) -> Self {
        // What LibTorch and CubeCL add goes over many lines, some of them quoted.
        let mut lines = reason.split('\n').flat_map(|line| line.split("\\n"));
        match lines.find(|line| is_about_memory(line)) {
            Some(line) => Self::OutOfMemory(line.trim().to_string()),
            None => Self::Device {
                reason: reason.to_string(),
                checkpoint,
            },
        }
    }

    /// The same of `train.dtype`.
    pub(crate) fn precision(error: InferenceError) -> Self {
        match error {
            InferenceError::Precision { found, able } => Self::Field {
                field: "train.dtype".into(),
                found: found.into(),
                expected: format!("this device cannot compute in it; it can in {able}"),
            },
            other => other.into(),
        }
    }

    pub(crate) fn io(
        path: &std::path::Path,
        action: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }
}

fn lines(errors: &[TrainerError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Does a backend say by this that memory ran out?
fn is_about_memory(line: &str) -> bool {
    let line = line.to_lowercase();
    let marks = [
        // CUDA's driver, LibTorch, wgpu.
        "out of memory",
        "out_of_memory",
        "outofmemory",
        "not enough memory",
        "alloc_failed",
        // CubeCL.
        "out of device memory",
        "can't allocate",
        "memory limit",
        "buffer too big",
        "buffertoobig",
    ];
    marks.iter().any(|mark| line.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_runs_out_in_inference_advises_what_helps_there() {
        let error = TrainerError::of_device("Out of Memory", String::new());
        assert!(error.to_string().contains("train.batch_size"), "{error}");
        let error = error.in_inference().to_string();
        assert!(
            error.contains("--batch-size") && error.contains("--dtype"),
            "{error}"
        );
        assert!(!error.contains("train."), "{error}");
    }

    #[test]
    fn settings_of_a_policy_are_fields_of_the_config() {
        let error = AgentError::Layers {
            layers: vec![3, 1],
            num_layers: 6,
        };
        let message = TrainerError::from(error).to_string();
        let said = "config field policy.layers = [3, 1]: must be ascending";
        assert!(message.starts_with(said), "{message}");
    }

    #[test]
    fn a_file_name_cannot_act_on_the_terminal() {
        let path = std::path::Path::new("run\u{1b}[31m");
        let message = TrainerError::io(path, "read")(std::io::Error::other("no")).to_string();
        assert!(
            message.starts_with(r"run\u{1b}[31m: cannot read"),
            "{message}"
        );
    }

    #[test]
    fn every_backend_is_understood_when_memory_runs_out() {
        for (said, kept) in [
            // CubeCL on CUDA and Vulkan.
            (
                "called `Result::unwrap()` on an `Err` value: An IO error happened\nCaused by:\n  out of \
                 device memory allocating 4294967296 bytes\nNo backtrace available",
                "out of device memory allocating 4294967296 bytes",
            ),
            (
                "can't allocate buffer of size: 17179869184\nNo backtrace available",
                "can't allocate buffer of size: 17179869184",
            ),
            (
                "Can't allocate 512 bytes: every page size the memory tracks still holds live allocations",
                "Can't allocate 512 bytes: every page size the memory tracks still holds live allocations",
            ),
            // CUDA's driver.
            (
                "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
                "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            ),
            // wgpu.
            ("wgpu error: Out of Memory", "wgpu error: Out of Memory"),
            (
                "In Device::create_buffer\n  Not enough memory left.",
                "Not enough memory left.",
            ),
            // LibTorch, whose text is quoted when it is unwrapped.
            (
                "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to \
                 allocate 20.00 GiB.\\nException raised from malloc\")",
                "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to \
                 allocate 20.00 GiB.",
            ),
            (
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            ),
        ] {
            match TrainerError::of_device(said, String::new()) {
                TrainerError::OutOfMemory(reason) => assert_eq!(reason, kept),
                other => panic!("{said}: {other}"),
            }
        }
        let other =
            TrainerError::of_device("an illegal memory access was encountered", String::new());
        assert!(matches!(other, TrainerError::Device { .. }), "{other}");
    }
}
