#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod agent;
mod agents;
mod cls_attention;
mod error;
mod evit;
mod keep_rate;
mod matching;
mod pair_agent;
mod policy;
mod predictor;
mod random;
mod ranked;
mod scored;
mod similarity;
#[cfg(test)]
mod testing;
mod tome;

pub use agent::{PruningAgent, PruningAgentConfig, agent_flops};
pub use agents::{AgentNetwork, AgentReducer, PruningAgents, PruningAgentsConfig};
pub use cls_attention::ClsAttentionReducer;
pub use error::AgentError;
pub use evit::EvitReducer;
pub use keep_rate::{KeepRate, keep_best, keep_top};
pub use matching::{Pair, matched_pairs};
pub use pair_agent::{PairAgent, PairAgentConfig, is_certain};
pub use policy::{Amount, Merging, PolicyConfig, PolicyKind};
pub use predictor::{Preference, TokenPredictor, TokenPredictorConfig};
pub use random::RandomReducer;
pub use ranked::{KeptCounts, RankedReducer};
pub use scored::{Exploration, ScoredReducer, likest_kept};
pub use tome::TomeReducer;
