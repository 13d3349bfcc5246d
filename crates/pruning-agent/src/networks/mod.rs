//! The networks that policies' agents are made of.

mod exit;
mod gate;
mod interaction;
mod pair;
mod pair_judge;
mod predictor;

pub use exit::{ExitAgent, ExitAgentConfig, certainty};
pub use gate::{Gate, GateConfig};
pub use interaction::{PruningAgent, PruningAgentConfig, agent_flops};
pub(crate) use pair::logits_of;
pub use pair::{PairAgent, PairAgentConfig};
pub use predictor::{TokenPredictor, TokenPredictorConfig};
