#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod agent;
mod agents;
mod cls_attention;
mod error;
mod evit;
mod keep_rate;
mod random;
mod ranked;
mod tome;

pub use agent::{PruningAgent, PruningAgentConfig, agent_flops};
pub use agents::{AgentReducer, PruningAgents, PruningAgentsConfig};
pub use cls_attention::ClsAttentionReducer;
pub use error::AgentError;
pub use evit::EvitReducer;
pub use keep_rate::{KeepRate, keep_best, keep_top};
pub use random::RandomReducer;
pub use ranked::{KeptCounts, RankedReducer};
pub use tome::TomeReducer;
