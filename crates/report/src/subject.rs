//! What a report is about: a folder, and what its model says of images.

use crate::folder::Folder;
use crate::passes::Passes;

/// A folder, and what its model says of images.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What the folder holds.
    pub folder: Folder,
    /// What its model says of images, or a sentence that says why nothing is known of that.
    pub passes: Result<Passes, String>,
}

impl Subject {
    /// What its model says of images, where there is something.
    pub fn seen(&self) -> Option<&Passes> {
        self.passes
            .as_ref()
            .ok()
            .filter(|passes| !passes.seen.is_empty())
    }
}
