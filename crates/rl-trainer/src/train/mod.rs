//! A whole training: from a config to a run's folder, on burn-train's loop.

mod devices;
mod fit;
mod freeze;
mod gradients;
mod images;
mod loss_scale;
mod memory;
mod optimizer;
mod options;
mod pass;
mod plan;
mod progress;
mod recompute;
mod retention;
mod schedule;
mod session;
mod settings;
mod sizing;
mod step;
mod stepper;
mod stop;
mod summary;
mod trainee;
mod training;

pub(crate) use self::images::{Images, split_images};
pub(crate) use self::options::Trained;
pub(crate) use self::trainee::check_policy;
pub(crate) use self::training::{resume_on, train_on};

pub use self::devices::Devices;
pub use self::images::held_out_images;
pub use self::memory::{available_memory, peak_memory};
pub use self::optimizer::{build_optimizer, clip_global_norm};
pub use self::options::{Outcome, TrainOptions};
pub use self::pass::{PrunedPass, pruned_pass};
pub use self::plan::{Plan, known_classes, plan};
pub use self::recompute::pruned_pass_recomputed;
pub use self::schedule::WarmupSchedule;
pub use self::sizing::{Sized, size_for};
pub use self::stepper::stepper;
pub use self::stop::{Pause, StopRequest};
pub use self::summary::{Summary, Throughput};
pub use self::trainee::Trainee;
pub use self::training::{check, resume, train, train_on_splits};
