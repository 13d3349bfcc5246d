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
    /// A share of the FLOPs that no number of tokens computes.
    #[error(
        "{share} of the FLOPs: expected {least:.3} (every agent layer leaves one patch) to {most:.3} (all stay); \
         agents in earlier blocks can save more"
    )]
    Share {
        /// What was asked for.
        share: f64,
        /// What one patch after each layer computes.
        least: f64,
        /// What all patches compute, the policy's own work included.
        most: f64,
    },
}
