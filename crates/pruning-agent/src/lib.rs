#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod agent;
mod agents;
mod cls_attention;
mod error;
mod keep_rate;
mod random;
mod ranked;

pub use agent::{PruningAgent, PruningAgentConfig, agent_flops};
pub use agents::{AgentReducer, PruningAgents, PruningAgentsConfig};
pub use cls_attention::ClsAttentionReducer;
pub use error::AgentError;
pub use keep_rate::{KeepRate, keep_best, keep_top};
pub use random::RandomReducer;
pub use ranked::{KeptCounts, RankedReducer};
