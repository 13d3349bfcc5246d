//! How a frozen model is pruned: learned and fitted on images, without labels.

mod agents;
mod by_gates;
mod candidate;
mod classroom;
mod distance;
mod exits;
mod expected_reward;
mod exploration;
mod fitting;
mod frozen;
mod job;
mod learning;
mod parking;
mod pruning;
mod regression;
mod report;
mod request;
mod restoring;
mod schedule_search;
mod schedules;
mod sensitivity;

pub use agents::{AgentSettings, FrozenModel};
pub use classroom::Classroom;
pub use exploration::{Explored, explore};
pub use fitting::{Allocated, allocate_at, fit_price, frequencies, oracle};
pub use frozen::learn_on_frozen;
pub use learning::{LearningSettings, Taught, learn};
pub use pruning::prune;
pub use report::{PruneReport, PruneRow};
pub use request::{AUTO, PruneOptions, PruneProgress};
pub use schedule_search::{ScheduleSearch, TriedSchedule};
