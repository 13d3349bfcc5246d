//! What a report is about: a folder, and its model's answers for images.

use crate::folder::Folder;
use crate::passes::Passes;

/// A folder, and its model's answers for images.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What the folder holds.
    pub folder: Folder,
    /// The model's answers for images, or a sentence that says why there are none.
    pub passes: Result<Passes, String>,
}

impl Subject {
    /// The model's answers, if there are any.
    pub fn seen(&self) -> Option<&Passes> {
        self.passes
            .as_ref()
            .ok()
            .filter(|passes| !passes.seen.is_empty())
    }
}
