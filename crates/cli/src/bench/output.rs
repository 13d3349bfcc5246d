//! What all that is timed prints alike.

use indicatif::ProgressBar;
use serde::Serialize;

use super::clock::Effort;
use crate::progress_bar::progress_bar;

/// One JSON object a line.
pub fn print_lines<T: Serialize>(rows: &[T]) {
    for row in rows {
        println!("{}", serde_json::json!(row));
    }
}

/// For so many cases in all, each of which takes the rounds that the effort says.
pub fn bench_bar(effort: &Effort, cases: usize) -> ProgressBar {
    let rounds = effort.warmup + effort.repeats;
    progress_bar((rounds * cases) as u64, "passes")
}
