#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod acting_blocks;
mod allocation;
mod any_module;
mod any_policy;
mod budget;
mod choice;
mod energy;
mod entry;
mod error;
mod exiting;
mod gates;
mod image_features;
mod keep_rate;
mod matching;
mod merging;
mod mixed;
mod networks;
mod parking;
mod policies;
mod policy;
mod price;
mod proportion;
mod registry;
mod schedule_tree;
mod scored;
mod selection;
mod similarity;
#[cfg(test)]
mod testing;
mod threshold;

pub use acting_blocks::{acting_blocks, all_but_the_last, check_blocks};
pub use allocation::Exploration;
pub use any_module::{AnyMapper, AnyVisitor};
pub use any_policy::AnyPolicy;
pub use budget::{counted_flops, kept_at_equal_counts, kept_at_equal_rates};
pub use choice::{PolicyConfig, name_and_settings};
pub use entry::{ADAPTIVE, BudgetUse, LAYERS, Meaning, PolicyEntry, PolicySettings, read_settings};
pub use error::AgentError;
pub use exiting::{Exiting, Exits, first_tokens};
pub use gates::Gates;
pub use image_features::feature_count;
pub use keep_rate::{KeepRate, keep_best, keep_top};
pub use matching::{Pair, matched_pairs, matched_with};
pub use merging::most_similar_kept;
pub use mixed::reducer_of_each;
pub use networks::{
    ExitAgent, ExitAgentConfig, Gate, GateConfig, PairAgent, PairAgentConfig, PruningAgent,
    PruningAgentConfig, TokenPredictor, TokenPredictorConfig, certainty,
};
pub use parking::{BlockReading, Parking, UNHEARD};
pub use policies::{
    AllocateSettings, Apt, AptPlusSettings, AptSettings, Attentive, AttentiveSettings,
    ClsAttention, ClsAttentionSettings, Dense, DenseSettings, DynamicVit, DynamicVitSettings,
    EarlyExitSettings, Evit, EvitSettings, Filter, FilterSettings, Pairs, PairsSettings, Park,
    ParkSettings, Pitome, PitomeSettings, Random, RandomAllocation, RandomAllocationSettings,
    RandomSettings, RegressionSettings, Tome, TomeSchedule, TomeScheduleSettings, TomeSettings,
    TomeThreshold, TomeThresholdSettings,
};
pub use policy::{Agents, Budgeting, Policy, PolicyModule, Removal};
pub use price::{EFFECT_SCALE, least_scores_at};
pub use registry::{policies, policy_entry, register_policy};
pub use schedule_tree::{DecisionPoint, ScheduleTree};
pub use scored::ScoredReducer;
pub use selection::{Selection, SelectionNoise};
pub use threshold::MOST_LOG_ODDS;
