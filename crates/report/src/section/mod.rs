//! The sections of the page, one file each.

mod budgets;
mod classes;
mod compare;
mod config;
mod confusion;
mod curves;
mod disagreements;
mod effort;
mod facts;
mod gallery;
mod headline;
mod interval;
mod mistakes;
mod pruning;
mod sweep;
mod usage;

use maud::Markup;

use crate::drawings::Drawings;
use crate::subject::Subject;

pub use compare::compare;
pub use headline::headline;

/// A section with its heading.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its address within the page.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What stands below.
    pub body: Markup,
}

impl Section {
    fn new(id: &'static str, title: &'static str, body: Markup) -> Self {
        Self { id, title, body }
    }
}

/// All sections of which something is known, in the order in which a reader asks.
pub fn sections(subject: &Subject, drawings: &mut Drawings<'_>) -> Vec<Section> {
    let sections = [
        sweep::sweep(subject),
        pruning::pruning(subject),
        budgets::budgets(subject),
        gallery::gallery(subject, drawings),
        curves::curves(subject),
        disagreements::disagreements(subject, drawings),
        mistakes::mistakes(subject, drawings),
        effort::effort(subject, drawings),
        classes::classes(subject),
        confusion::confusion(subject),
        facts::facts(subject),
        config::config(subject),
        usage::usage(subject),
    ];
    sections.into_iter().flatten().collect()
}
