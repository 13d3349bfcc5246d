//! Images to logits, by the fastest way that device and reducer allow.

use burn::prelude::*;

use crate::{ExecutionMode, RunSettings, Vit, VitOutput, kernels, parts, uniform};

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
            .unwrap_or_else(|| self.forward_on_the_pool(images, settings))
    }

    /// On a thread of the pool where that may be: the caller's thread would compute beside all of the pool's, one thread
    /// more than there are processors.
    fn forward_on_the_pool(&self, images: Tensor<4>, settings: RunSettings<'_>) -> VitOutput {
        let mode = settings.mode;
        let reducer = match settings.reducer {
            Some(reducer) if mode != ExecutionMode::Dense => reducer.by_image().map(Some),
            _ => Some(None),
        };
        let here = kernels::computes_here(&images.device());
        let Some(reducer) = reducer.filter(|_| here) else {
            return self.forward_from(images, 0, settings);
        };
        rayon::scope(|_| {
            let reducer = reducer.map(|reducer| reducer as _);
            self.forward_from(images, 0, RunSettings { mode, reducer })
        })
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
