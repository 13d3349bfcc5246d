//! Attention over packed sequences, one head of one sequence at a time: scores and weights stay
//! in the cache, queries, keys and values are read where they stand.

mod backward;
mod forward;
mod heads;

pub(super) use backward::{backward, masked_backward};
pub(super) use forward::forward;
pub(in crate::kernels) use heads::weighed;
