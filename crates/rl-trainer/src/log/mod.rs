//! What a training says while it runs: its numbers, to files and to a terminal.

mod event_file;
mod metric_log;
mod plain_renderer;
mod report;

pub(crate) use metric_log::RunLog;
pub(crate) use plain_renderer::PlainRenderer;
pub use plain_renderer::duration;
pub use report::{Report, ReportMetric};
