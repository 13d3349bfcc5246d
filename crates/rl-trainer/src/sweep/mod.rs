//! What a sweep of policies over budgets and seeds found: its records, statistics, table and
//! plots; and [`Sweep`], which runs it.
//!
//! A [`Cell`] is one policy at one budget with one seed; a [`CellFolder`] keeps cells and makes
//! `rows.csv`, `rows.json`, `summary.md` and the plots of them.

mod cell;
mod folder;
mod origin;
mod plan;
mod plot;
mod policy;
mod run;
mod statistics;
mod summary;

pub use cell::{Cell, DENSE, Group, groups};
pub use folder::CellFolder;
pub use plan::{MeasuredOn, Sweep};
pub use plot::{Against, COLORS, plot_png, plot_svg};
pub use policy::SweptPolicy;
pub use run::Stage;
pub use statistics::{Comparison, Mean, compare, compare_dense, mean};
pub use summary::summary;

#[cfg(test)]
mod synthetic;
