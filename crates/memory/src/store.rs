//! Where entries are kept, and found again.

use crate::vote::ClassCounts;
use crate::{About, Entry, Label, MemoryError, Neighbor, Which};

/// Where entries are kept. Each change is there as a whole or not at all, and outlives the program.
pub trait Store: Send + Sync {
    /// What the memory says of itself.
    fn about(&self) -> &About;

    /// Adds entries; each takes the place of one with the same id.
    ///
    /// # Errors
    ///
    /// Where they cannot be written; then none is added.
    fn add(&mut self, entries: Vec<Entry>) -> Result<(), MemoryError>;

    /// Removes entries, and says how many they were.
    ///
    /// # Errors
    ///
    /// Where the change cannot be written; then none is removed.
    fn remove(&mut self, which: &Which) -> Result<usize, MemoryError>;

    /// All entries, by class and then by source.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    fn list(&self) -> Result<Vec<Label>, MemoryError>;

    /// How many entries each class has.
    ///
    /// # Errors
    ///
    /// Where they cannot be counted.
    fn counts(&self) -> Result<ClassCounts, MemoryError>;

    /// What a search for one image computes on this machine, a multiplication and an addition counted as two.
    fn search_flops(&self) -> u64;

    /// For each of some features the `count` entries with the largest cosine, the most similar first.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    fn nearest(
        &self,
        features: &[Vec<f32>],
        count: usize,
    ) -> Result<Vec<Vec<Neighbor>>, MemoryError>;
}
