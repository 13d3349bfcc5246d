//! How a frozen model is pruned: fitted on images, without labels.

mod schedule_search;
mod schedules;

pub use schedule_search::{ScheduleSearch, TriedSchedule};
