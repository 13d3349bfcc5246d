//! For how many patches merged tokens stand.

use burn::prelude::*;

/// For how many patches tokens stand.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// `[batch, tokens]`
    pub counts: Tensor<2>,
    /// Their logarithms, which are added to attention scores ("proportional attention"; Bolya et al. 2023, section 3).
    pub logarithms: Tensor<2>,
}

impl From<Tensor<2>> for Sizes {
    fn from(counts: Tensor<2>) -> Self {
        Self {
            logarithms: counts.clone().log(),
            counts,
        }
    }
}
