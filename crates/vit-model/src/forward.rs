//! Images to logits, by the fastest way that device and reducer allow.

use burn::prelude::*;

use crate::{RunSettings, Vit, VitOutput, kernels, parts, uniform};

impl Vit {
    /// Images to logits.
    ///
    /// # Shapes
    ///
    /// - `images`: `[batch, 3, height, width]`
    /// - logits: `[batch, classes]`
    pub fn forward(&self, images: Tensor<4>, settings: RunSettings<'_>) -> VitOutput {
        parts::forward(self, &images, settings)
            .or_else(|| {
                let enqueues = kernels::decides_on_device(&images.device());
                let images = enqueues.then(|| images.clone())?;
                self.forward_uniformly(images, settings)
            })
            .unwrap_or_else(|| self.forward_from(images, 0, settings))
    }

    /// As [`forward`](Self::forward), every decision made by tensor operations: nothing waits for the host. None where the
    /// reducer decides on the host or leaves images different numbers of tokens, and in mask mode.
    pub fn forward_uniformly(
        &self,
        images: Tensor<4>,
        settings: RunSettings<'_>,
    ) -> Option<VitOutput> {
        uniform::forward(self, images, settings)
    }
}
