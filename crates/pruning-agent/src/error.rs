/// What can go wrong when agents or heuristics are configured.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A keep rate outside of 0..=1.
    #[error("keep rate {0}: expected a number above 0 and at most 1")]
    KeepRate(f64),
    /// Agent layers that the model does not have, or that are not in ascending order.
    #[error(
        "agent layers {layers:?}: expected ascending block numbers below {num_layers}, the model's number of blocks"
    )]
    Layers {
        /// The layers asked for.
        layers: Vec<usize>,
        /// Blocks of the model.
        num_layers: usize,
    },
}
