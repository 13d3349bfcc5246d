use burn::prelude::*;
use burn::tensor::{DType, FloatDType};
use serde::{Deserialize, Serialize};

use crate::kernels::{Instructions, computes_here, float_instructions, rounds_factors};

/// In which floats the matrix products are computed: mixed precision (Micikevicius et al., "Mixed
/// Precision Training", 2018).
///
/// Weights, the tokens between the blocks, norms, the logits and the loss are 32-bit floats in
/// each; in inference LibTorch keeps the tokens in bfloat16 where products are in it. In the two short ones, the linear layers of the blocks and the patch projection and the
/// attention get their inputs and weights rounded; the softmax is computed in 32 bits wherever
/// gradients are. On CPUs whose kernels round the factors of linear layers themselves, attention stays in 32 bits where the
/// model is not prepacked, as in training.
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
    /// 8-bit integers in the blocks' linear layers, once [prepacked](crate::Vit::prepack): weights quantised by output
    /// channel, activations by token as they come (no data is needed). The rest is in bfloat16 or 32-bit floats. For
    /// inference alone.
    Int8,
}

impl Precision {
    /// Those in which a model can train.
    pub const FLOATS: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Every one.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::F16, Self::Int8];

    /// Its name: `f32`, `bf16`, `f16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }

    /// Burn's type for it; of the floats around them where it is integers.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 | Self::Int8 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }

    /// Can the device compute in it?
    pub fn is_supported(self, device: &Device) -> bool {
        match self {
            Self::Int8 => computes_here(device) && Instructions::best().is_some(),
            floats => device.supports_dtype(floats.dtype()),
        }
    }

    /// The instructions of this CPU that prepacked products are computed with. None where it has none for them: then they
    /// are computed in 32-bit floats (`int8` is refused).
    pub fn instructions(self) -> Option<&'static str> {
        match self {
            Self::F32 => float_instructions(),
            Self::F16 => None,
            Self::Bf16 => Instructions::best().and_then(Instructions::for_bf16),
            Self::Int8 => Instructions::best().map(Instructions::for_int8),
        }
    }

    /// The fastest on the device of those that keep a model's answers: bfloat16 where the device computes in it, integers on
    /// CPUs that have instructions for these alone, and 32-bit floats elsewhere.
    pub fn fastest(device: &Device) -> Self {
        if !computes_here(device) {
            let short = Self::Bf16.is_supported(device);
            return if short { Self::Bf16 } else { Self::F32 };
        }
        match Instructions::best() {
            Some(set) if set.has_tiles() => Self::Bf16,
            Some(_) => Self::Int8,
            None => Self::F32,
        }
    }

    /// The tensor as linear layers in this precision read it: of 32-bit floats where their kernels round it themselves.
    pub(crate) fn round<const D: usize>(self, tensor: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Int8 => tensor,
            Self::Bf16 if rounds_factors(&tensor.device()) => tensor,
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
