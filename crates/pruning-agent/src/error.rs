use std::fmt::Write;

/// What can be wrong with a policy.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A layer keep rate that keeps nothing, or more than everything.
    #[error("layer keep rate = {0}: must be above 0 and at most 1")]
    KeepRate(f64),
    /// No blocks, blocks that the model does not have, or out of order.
    #[error(
        "policy.layers = {layers:?}: must be ascending block numbers, at least one, from 0 to {}, since the model has \
         {num_layers} blocks; leave it out for the usual ones",
        num_layers.saturating_sub(1)
    )]
    Layers {
        /// What was asked for.
        layers: Vec<usize>,
        /// How many blocks the model has.
        num_layers: usize,
    },
    /// No counts of tokens compute that share of the FLOPs.
    #[error(
        "{share} of the dense FLOPs cannot be met: this policy can compute from {least:.3} to {most:.3} of them{}",
        if most - least < 1e-3 { "; no block comes after the one in which it acts (policy.layers)" } else { "" }
    )]
    Share {
        /// The share that was asked for.
        share: f64,
        /// The least that can be computed.
        least: f64,
        /// The most.
        most: f64,
    },
    /// A policy of a name that nobody registered.
    #[error("unknown policy `{found}`, expected one of {}", in_ticks(known))]
    UnknownPolicy {
        /// The name.
        found: String,
        /// Those that there are.
        known: Vec<&'static str>,
    },
    /// A policy is registered under the name of a built-in one.
    #[error("there is a built-in policy `{0}`: register yours under another name")]
    Taken(&'static str),
    /// A setting that the policy does not have, or a value that it cannot take.
    #[error("policy: {0}")]
    Settings(String),
    /// A setting whose value makes no sense.
    #[error("policy.{key} = {found}: {expected}")]
    Setting {
        /// Its key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it has to be.
        expected: String,
    },
}

fn in_ticks(names: &[&str]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}`{name}`");
    }
    text
}
