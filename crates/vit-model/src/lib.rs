#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod attention;
mod block;
mod config;
mod encoder;
mod error;
mod every_patch;
mod flops;
mod forward;
pub mod host;
// LibTorch's backend is deprecated; this is the last release line that has it.
#[cfg_attr(feature = "tch", allow(deprecated))]
mod kernels;

/// The model's fused operations, for the networks of reducers.
pub mod fused {
    pub use crate::kernels::decisions::{BestMatch, best_match, highest};
    pub use crate::kernels::prepacked::Prepacked;
    pub use crate::kernels::{compiles_for_shapes, computes_here, layer_norm, linear, linear_gelu};
}

mod heads;
mod kept;
mod keys;
mod merge;
mod parked;
mod parts;
mod patch_embedding;
mod precision;
mod printable;
mod reading;
mod reducer;
mod restart;
mod selected_rows;
mod sequences;
mod stem;
mod token_batch;
mod uniform;
mod uniform_reducer;
mod vit;
mod weights;

pub use attention::{Attention, AttentionConfig};
pub use block::{Block, BlockConfig, Mlp};
pub use config::{Activation, Distillation, ImageSize, VitConfig, VitPreset};
pub use encoder::{Encoded, ExecutionMode, LayerTrace, RunSettings};
pub use error::VitError;
pub use every_patch::EveryPatch;
pub use flops::{FlopsCount, block_flops, patch_embedding_flops, reading_flops, vit_flops};
pub use heads::Heads;
pub use kept::Kept;
pub use keys::Keys;
pub use merge::Merge;
pub use parked::{Drift, Park, Parked, Reading};
pub use patch_embedding::PatchEmbedding;
pub use precision::Precision;
pub use printable::{printable, printable_text};
pub use reducer::{Exit, Needs, Observation, Placement, Reduction, TokenReducer};
pub use sequences::Sequences;
pub use stem::{StandardizedConv, Stem, StemConfig, Unit};
pub use token_batch::TokenBatch;
pub use uniform_reducer::{
    MergeWeights, UniformMerge, UniformObservation, UniformReducer, UniformReduction,
};
pub use vit::{Vit, VitOutput};
pub use weights::{
    Checkpoint, CheckpointHead, CheckpointInfo, ExportDetails, ExportNaming, Exported,
    KNOWN_CHECKPOINTS, KnownCheckpoint, NamedTensors, PositionResize, WeightsFormat, export,
    write_safetensors,
};
