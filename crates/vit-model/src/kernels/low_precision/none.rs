//! Where no CPU has the instructions: every product stays in 32-bit floats.

use std::sync::Arc;

use burn::nn::Linear;
use burn::prelude::*;

use crate::kernels::Spans;
#[cfg(feature = "flex")]
use crate::kernels::flex::Matrix;
use crate::{Block, Precision};

/// None of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Instructions {}

impl Instructions {
    pub fn best() -> Option<Self> {
        None
    }

    pub fn for_bf16(self) -> Option<&'static str> {
        match self {}
    }

    pub fn for_int8(self) -> &'static str {
        match self {}
    }

    pub fn has_tiles(self) -> bool {
        match self {}
    }
}

/// No block.
#[derive(Clone, Debug)]
pub(crate) enum ShortBlock {}

impl ShortBlock {
    pub fn new(_: &Block, _: f64, _: Precision) -> Option<Self> {
        None
    }

    pub fn width(&self) -> usize {
        match *self {}
    }

    pub fn attend(
        &self,
        _: &Tensor<2>,
        _: &Arc<Spans>,
        _: Option<&Tensor<1>>,
    ) -> Option<(Tensor<2>, Tensor<2>)> {
        match *self {}
    }

    pub fn feed_forward(&self, _: &Tensor<2>) -> Option<Tensor<2>> {
        match *self {}
    }
}

/// No products.
#[cfg(feature = "flex")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rounded {}

#[cfg(feature = "flex")]
impl Rounded {
    pub fn new(_: usize, _: usize) -> Option<Self> {
        None
    }

    pub unsafe fn product(
        self,
        _: Matrix<'_>,
        _: Matrix<'_>,
        _: Option<&[f32]>,
        _: *mut f32,
        _: impl Fn(usize, usize) + Sync,
    ) {
        match self {}
    }

    pub unsafe fn long_product(self, _: Matrix<'_>, _: Matrix<'_>, _: *mut f32) {
        match self {}
    }
}

/// No layer.
#[derive(Clone, Debug)]
pub(crate) enum ShortLinear {}

impl ShortLinear {
    pub fn new(_: &Linear, _: Precision) -> Option<Self> {
        None
    }

    pub fn forward(&self, _: &Tensor<2>) -> Option<Tensor<2>> {
        match *self {}
    }
}

pub(crate) fn mean_keys(_: &Tensor<2>, _: usize) -> Option<Tensor<2>> {
    None
}
