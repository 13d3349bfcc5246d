//! Passes of a model that removes something else than it usually does, of each image something else if that is wanted.

use apt_pruning_agent::{Selection, reducer_of_each};
use apt_vit_model::{ExecutionMode, LayerTrace, RunSettings, VitOutput};
use burn::prelude::*;

use crate::answer::TokenOf;
use crate::{LayerAnswer, Model, Reduced};

impl Model {
    /// As [`forward`](Self::forward), removing what `selection` says instead of what the model usually does. Where that
    /// is nothing, the policy is not asked.
    pub fn forward_with(&self, images: Tensor<4>, selection: &Selection) -> VitOutput {
        let [batch, ..] = images.dims();
        self.forward_each(images, &vec![selection; batch])
    }

    /// As [`forward_with`](Self::forward_with), with a selection for each image.
    pub fn forward_each(&self, images: Tensor<4>, selections: &[&Selection]) -> VitOutput {
        let vit = &self.pruning().vit;
        let seeds: Vec<u64> = (0..selections.len() as u64).collect();
        let removes = |selection: &&Selection| **selection != Selection::All;
        if !selections.iter().any(removes) {
            return vit.forward(images, RunSettings::DENSE);
        }
        let reducer = reducer_of_each(&*self.pruning().policy, selections, &seeds);
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(&*reducer),
        };
        vit.forward(images, settings)
    }

    /// What a pass with these selections removed of each image, and what it cost. Of an image of which nothing is removed,
    /// the policy counts nothing.
    pub fn reductions_of_each(
        &self,
        trace: &[LayerTrace],
        selections: &[&Selection],
    ) -> Vec<Reduced> {
        let mut reductions = self.reductions(trace, selections.len());
        for (image, (reduced, selection)) in reductions.iter_mut().zip(selections).enumerate() {
            if **selection == Selection::All {
                let (flops, flops_share) = self.pruning().flops(&[], image);
                *reduced = Reduced {
                    layers: Vec::new(),
                    flops,
                    flops_share,
                };
            }
        }
        reductions
    }

    /// What a pass over `images` images removed of each, and what it cost.
    pub fn reductions(&self, trace: &[LayerTrace], images: usize) -> Vec<Reduced> {
        let config = self.pruning().config();
        let prefix = config.num_prefix_tokens();
        let kept: Vec<_> = trace.iter().map(|entry| entry.kept.read()).collect();
        let reduced = |image: usize| {
            let mut token = TokenOf::whole(config.num_tokens());
            let mut last = vec![true; config.num_tokens()];
            let layers = trace.iter().zip(&kept).enumerate();
            // Once an image is answered, blocks see nothing of it.
            let layers = layers.filter(|(_, (entry, _))| entry.seen[image] > 0);
            let layers = layers.map(|(index, (entry, kept))| {
                if entry.left[image] > 0 {
                    token.follow(&entry.kept.merged()[image], &kept[image]);
                    last.clone_from(&kept[image]);
                }
                LayerAnswer {
                    layer: entry.layer,
                    tokens: entry.left[image],
                    parked: entry.parked.get(image).copied().unwrap_or(0),
                    restarted: entry.restarted.get(image) == Some(&true),
                    flops_share: self.pruning().flops(&trace[..=index], image).1,
                    kept: last[prefix..].to_vec(),
                    token: token.of_patches(prefix),
                }
            });
            let layers = layers.collect();
            let (flops, flops_share) = self.pruning().flops(trace, image);
            Reduced {
                layers,
                flops,
                flops_share,
            }
        };
        (0..images).map(reduced).collect()
    }
}
