//! Tokens that go into others.

/// Which tokens take in which others.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// Per row: the row that it goes into; its own where it does not. A row that others go into goes
    /// nowhere.
    pub into: Vec<usize>,
    /// Per row: what it weighs in the sum. 1 for a row that nothing happens to.
    pub weights: Vec<f32>,
    /// From now on a token that others went into counts for more: queries attend to one of `n` patches as to `n` to the power of this, "proportional
    /// attention" (Bolya et al., "Token Merging", 2023, section 3) where it is 1. None: it counts for one.
    pub proportion: Option<f32>,
}
