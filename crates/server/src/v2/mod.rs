//! The Open Inference Protocol, version 2, over HTTP, with its extension of binary tensors
//! (<https://github.com/kserve/open-inference-protocol>, and Triton's `extension_binary_data.md` and
//! `extension_classification.md`).

pub(crate) mod infer;
pub(crate) mod metadata;
mod outputs;
mod request;
mod tensor;
