use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::prelude::*;

use crate::config::{OptimizerConfig, OptimizerKind};

/// Builds the optimiser for `module`.
pub fn build_optimizer<M: Module>(config: &OptimizerConfig, module: &M) -> ModuleOptimizer {
    match config.name {
        OptimizerKind::Sgd => {
            let momentum = MomentumConfig::new()
                .with_momentum(config.momentum)
                .with_dampening(0.0);
            let mut sgd = SgdConfig::new().with_momentum(Some(momentum));
            if config.weight_decay > 0.0 {
                sgd = sgd.with_weight_decay(Some(WeightDecayConfig::new(config.weight_decay)));
            }
            sgd.init()
        }
        OptimizerKind::Adamw => {
            let adamw = AdamWConfig::new()
                .with_beta_1(config.betas[0])
                .with_beta_2(config.betas[1])
                .with_epsilon(1e-8);
            let undecayed = adamw.clone().with_weight_decay(0.0).build();
            adamw
                .with_weight_decay(config.weight_decay)
                .init()
                .with_group(
                    ParamGroup::from_ids(undecayed_params(module)),
                    undecayed,
                    None,
                )
        }
    }
}

/// Biases, norms, CLS and positions: everything that is not a matrix.
fn undecayed_params<M: Module>(module: &M) -> Vec<ParamId> {
    struct Collector(Vec<ParamId>);
    impl ModuleVisitor for Collector {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D != 2 {
                self.0.push(param.id);
            }
        }
    }
    let mut collector = Collector(Vec::new());
    module.visit(&mut collector);
    collector.0
}

/// The gradients of `part`'s parameters, taken out of `grads`.
pub(crate) fn split_off<M: Module>(part: &M, grads: &mut GradientsParams) -> GradientsParams {
    struct Taker<'a> {
        grads: &'a mut GradientsParams,
        taken: GradientsParams,
    }
    impl ModuleVisitor for Taker<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.remove::<D>(param.id) {
                self.taken.register(param.id, grad);
            }
        }
    }
    let taken = GradientsParams::new();
    let mut taker = Taker { grads, taken };
    part.visit(&mut taker);
    taker.taken
}

/// Divides all gradients by `loss_scale`, and scales them together so that their joint norm is at
/// most `max_norm`, as PyTorch's `clip_grad_norm_` does. Returns the norm between the two.
pub fn clip_global_norm<M: Module>(
    module: M,
    grads: &mut GradientsParams,
    max_norm: f32,
    loss_scale: f32,
) -> (M, f32) {
    struct Norm<'a> {
        grads: &'a GradientsParams,
        squares: f64,
    }
    impl ModuleVisitor for Norm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                // Row by row first: one sum over millions of elements has no fixed order.
                let rows = (grad.clone() * grad).sum_dim(D - 1);
                self.squares += rows.into_data().iter::<f64>().sum::<f64>();
            }
        }
    }
    struct Scale<'a> {
        grads: &'a mut GradientsParams,
        factor: f32,
    }
    impl ModuleMapper for Scale<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if let Some(grad) = self.grads.remove::<D>(param.id) {
                self.grads.register(param.id, grad.mul_scalar(self.factor));
            }
            param
        }
    }
    let mut norm = Norm {
        grads,
        squares: 0.0,
    };
    module.visit(&mut norm);
    let norm = norm.squares.sqrt() as f32 / loss_scale;
    let factor = if norm <= max_norm {
        1.0 / loss_scale
    } else {
        max_norm / (norm + 1e-6) / loss_scale
    };
    if factor == 1.0 {
        return (module, norm);
    }
    (module.map(&mut Scale { grads, factor }), norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};

    fn layer_and_grads(scale: f32) -> (Linear, GradientsParams) {
        let device = Device::default().autodiff();
        let layer = LinearConfig::new(2, 2).init(&device);
        let input = Tensor::<2>::ones([1, 2], &device).mul_scalar(scale);
        let grads = layer.forward(input).sum().backward();
        let grads = GradientsParams::from_grads(grads, &layer);
        (layer, grads)
    }

    #[test]
    fn the_norm_is_taken_over_all_gradients_together() {
        // Four weight gradients of 3 and two bias gradients of 1.
        let (layer, mut grads) = layer_and_grads(3.0);
        let (layer, norm) = clip_global_norm(layer, &mut grads, 1.0, 1.0);
        assert!((norm - 38f32.sqrt()).abs() < 1e-5);
        let weight = grads.get::<2>(layer.weight.id).unwrap().into_data();
        for value in weight.iter::<f32>() {
            assert!((value - 3.0 / 38f32.sqrt()).abs() < 1e-5);
        }
    }

    #[test]
    fn gradients_below_the_norm_stay_as_they_are() {
        let (layer, mut grads) = layer_and_grads(0.1);
        let (layer, _) = clip_global_norm(layer, &mut grads, 10.0, 1.0);
        let weight = grads.get::<2>(layer.weight.id).unwrap().into_data();
        assert!(weight.iter::<f32>().all(|value| (value - 0.1).abs() < 1e-6));
    }

    #[test]
    fn a_scaled_loss_gives_the_same_update() {
        let (layer, mut grads) = layer_and_grads(3.0);
        let (_, norm) = clip_global_norm(layer.clone(), &mut grads, 1.0, 1.0);
        let expected = grads.get::<2>(layer.weight.id).unwrap().into_data();
        let (scaled, mut grads) = {
            let input = Tensor::<2>::ones([1, 2], &layer.weight.device()).mul_scalar(3.0);
            let grads = (layer.forward(input).sum() * 1024.0).backward();
            let grads = GradientsParams::from_grads(grads, &layer);
            (layer, grads)
        };
        let (scaled, norm_of_scaled) = clip_global_norm(scaled, &mut grads, 1.0, 1024.0);
        let found = grads.get::<2>(scaled.weight.id).unwrap().into_data();
        found.assert_approx_eq::<f32>(&expected, burn::tensor::Tolerance::absolute(1e-6));
        assert!((norm - norm_of_scaled).abs() < 1e-5);
    }

    #[test]
    fn momentum_has_no_dampening() {
        let (layer, grads) = layer_and_grads(1.0);
        let config = OptimizerConfig {
            momentum: 0.5,
            ..Default::default()
        };
        let mut optimizer = build_optimizer(&config, &layer);
        let before = layer.weight.val().into_data();
        let id = layer.weight.id;
        let grad = grads.get::<2>(id).unwrap();
        let mut layer = layer;
        for _ in 0..2 {
            let mut grads = GradientsParams::new();
            grads.register(id, grad.clone());
            layer = optimizer.step(1.0, layer, grads);
        }
        // 1, then 0.5 * 1 + 1.
        let after = layer.weight.val().into_data();
        for (before, after) in before.iter::<f32>().zip(after.iter::<f32>()) {
            assert!((before - after - 2.5).abs() < 1e-5);
        }
    }
}
