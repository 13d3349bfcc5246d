//! What a training says while it runs: its numbers, to files and to a terminal.

mod curve;
mod dashboard;
mod dashboard_view;
mod event_file;
mod metric_log;
mod numbers;
mod plain_renderer;
mod report;
pub(crate) mod screen;

pub use curve::Curve;
pub(crate) use dashboard::Dashboard;
pub use event_file::LoggedPicture;
pub(crate) use metric_log::RunLog;
pub use metric_log::log_pictures;
pub use numbers::duration;
pub(crate) use plain_renderer::PlainRenderer;
pub use report::{Report, ReportMetric};
