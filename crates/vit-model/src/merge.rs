//! Tokens that go into others.

/// Which tokens take in which others.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// Per row: the row that it goes into; its own where it does not. A row that others go into goes
    /// nowhere.
    pub into: Vec<usize>,
    /// Per row: what it weighs in the sum. 1 for a row that nothing happens to.
    pub weights: Vec<f32>,
    /// Does a token from now on count for as many patches as went into it?
    pub sizes: bool,
}
