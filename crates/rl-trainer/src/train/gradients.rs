//! Gradients of several backward passes.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;

/// Every gradient of `more` is added to those in `grads`.
pub(crate) fn merge<M: Module>(module: &M, grads: &mut GradientsParams, more: GradientsParams) {
    struct Adder<'a> {
        grads: &'a mut GradientsParams,
        more: GradientsParams,
    }
    impl ModuleVisitor for Adder<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(more) = self.more.remove::<D>(param.id) else {
                return;
            };
            let sum = match self.grads.remove::<D>(param.id) {
                Some(grad) => grad + more,
                None => more,
            };
            self.grads.register(param.id, sum);
        }
    }
    module.visit(&mut Adder { grads, more });
}
