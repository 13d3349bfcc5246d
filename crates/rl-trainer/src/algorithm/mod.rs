//! How policies learn: one file an algorithm, in the order observation, action, reward, loss. To add one: its file, its
//! `mod` line, and its line in the registry.

mod choice;
pub mod counterfactual;
mod decision;
pub mod dynamic_vit;
mod entry;
pub mod first_order;
mod lesson;
mod likelihood;
pub mod losses;
pub mod policy_gradient;
pub mod ppo;
mod registry;
pub mod sampling;
mod settings;

pub use choice::AlgorithmConfig;
pub use decision::{Decision, Recorder};
pub use entry::{AlgorithmEntry, AlgorithmSettings};
pub use lesson::{Algorithm, Lesson, Pass, PolicyLosses, Purpose, Seeds};
pub use likelihood::log_likelihoods;
pub(crate) use likelihood::rows_of;
pub use registry::{algorithm_entry, algorithms, register_algorithm};
pub use settings::{AGENT_LOSS_WEIGHT, GROUP_SIZE, TEMPERATURE, at_least, positive};
