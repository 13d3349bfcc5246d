//! What the tests of agents share.

use apt_vit_model::{Keys, Observation, TokenBatch};
use burn::prelude::*;

/// All of a batch after block 0, CLS attending to each token alike.
pub(crate) fn observed(batch: &TokenBatch, keys: Tensor<2>) -> Observation<'_> {
    Observation {
        layer: 0,
        hidden: batch.tokens.clone(),
        sequences: &batch.sequences,
        cls_attention: Some(vec![0.1; batch.sequences.num_rows()]),
        keys: Some(Keys::new(keys)),
        parked: None,
        heads: None,
    }
}
