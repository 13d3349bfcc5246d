use burn::prelude::*;
use burn::tensor::{DType, FloatDType};
use serde::{Deserialize, Serialize};

/// In which floats the matrix products are computed: mixed precision (Micikevicius et al., "Mixed
/// Precision Training", 2018).
///
/// Weights, the tokens between the blocks, norms, the logits and the loss are 32-bit floats in
/// each; in inference LibTorch keeps the tokens in bfloat16 where products are in it. In the two short ones, the linear layers of the blocks and the patch projection and the
/// attention get their inputs and weights rounded; the softmax is computed in 32 bits wherever
/// gradients are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16: the range of 32-bit floats, 8 bits of precision.
    Bf16,
    /// Half precision: 11 bits of precision, values up to 65,504. Gradients need loss scaling.
    F16,
}

impl Precision {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Its name: `f32`, `bf16` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Burn's type for it.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }

    /// Can the device compute in it?
    pub fn is_supported(self, device: &Device) -> bool {
        device.supports_dtype(self.dtype())
    }

    /// The tensor in this precision; what is longer than 32 bits stays so in 32.
    pub(crate) fn round<const D: usize>(self, tensor: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 => tensor,
            short => cast(tensor, short.dtype().into()),
        }
    }
}

/// The tensor in at least 32 bits.
pub(crate) fn widen<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => tensor.cast(FloatDType::F32),
        _ => tensor,
    }
}

/// The tensor as another type of float.
pub(crate) fn cast<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype {
        tensor
    } else {
        tensor.cast(FloatDType::from(dtype))
    }
}
