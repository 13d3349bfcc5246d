//! The policies, one file each. To add one: its file, its lines here, and its line in the registry.

mod allocate;
mod apt;
mod apt_plus;
mod attentive;
mod cls_attention;
mod dense;
mod dynamic_vit;
mod early_exit;
mod evit;
mod filter;
mod pairs;
mod pitome;
mod random;
mod random_allocation;
mod regression;
mod tome;
mod tome_schedule;
mod tome_threshold;

pub use allocate::AllocateSettings;
pub use apt::{Apt, AptSettings};
pub use apt_plus::AptPlusSettings;
pub use attentive::{Attentive, AttentiveSettings};
pub use cls_attention::{ClsAttention, ClsAttentionSettings};
pub use dense::{Dense, DenseSettings};
pub use dynamic_vit::{DynamicVit, DynamicVitSettings};
pub use early_exit::EarlyExitSettings;
pub use evit::{Evit, EvitSettings};
pub use filter::{Filter, FilterSettings};
pub use pairs::{Pairs, PairsSettings};
pub use pitome::{Pitome, PitomeSettings};
pub use random::{Random, RandomSettings};
pub use random_allocation::{RandomAllocation, RandomAllocationSettings};
pub use regression::RegressionSettings;
pub use tome::{Tome, TomeSettings};
pub use tome_schedule::{TomeSchedule, TomeScheduleSettings};
pub use tome_threshold::{TomeThreshold, TomeThresholdSettings};
