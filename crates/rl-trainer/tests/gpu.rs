//! What must hold on every device, in one program: `cargo xtask gpu-bundle` takes it to a machine with a GPU.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "golden.rs"]
mod golden;
#[path = "../../vit-model/tests/mask_and_drop.rs"]
mod mask_and_drop;
#[path = "../../pruning-agent/tests/uniform.rs"]
mod uniform;
