//! One of a sweep's trainings: it says which model the sweep is about, and on which images.

use std::path::Path;

use apt_inference::Run;

use crate::document::Document;
use crate::folder::CONFIG;

/// The folder of a sweep's trainings.
pub const RUNS: &str = "runs";

/// What the first of a sweep's trainings says of all: they share the model and the images.
#[derive(Clone, Debug, Default)]
pub struct Training {
    /// Its folder, within the sweep's.
    pub folder: String,
    /// Its `run.json`.
    pub description: Document,
    /// Its `config.toml`.
    pub config: Document,
}

impl Training {
    /// The first one in the order of their names; `None` if there is none that can be read.
    pub fn first(sweep: &Path) -> Option<Self> {
        let entries = std::fs::read_dir(sweep.join(RUNS)).ok()?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        // What is wrong with a training stands in its own report.
        let problems = &mut Vec::new();
        names.into_iter().find_map(|name| {
            let folder = format!("{RUNS}/{name}");
            let description = Document::read(sweep, &format!("{folder}/{}", Run::FILE), problems);
            let file = format!("{folder}/{CONFIG}");
            let text = std::fs::read_to_string(sweep.join(&file)).ok()?;
            description.is_there().then(|| Self {
                config: Document::toml(&file, &text),
                folder,
                description,
            })
        })
    }
}
