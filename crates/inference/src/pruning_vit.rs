use apt_pruning_agent::{AnyPolicy, Budgeting, PolicyConfig, Selection};
use apt_vit_model::{
    ExecutionMode, LayerTrace, Precision, RunSettings, Vit, VitConfig, VitOutput, vit_flops,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;

use crate::InferenceError;

/// A Vision Transformer and the policy that prunes it.
#[derive(Module, Debug)]
pub struct PruningVit {
    /// The model.
    pub vit: Vit,
    /// Who decides which tokens stay.
    pub policy: AnyPolicy,
    #[module(skip)]
    config: VitConfig,
}

impl PruningVit {
    /// Creates model and policy with fresh weights on `device`, which depend on the device's seed alone.
    ///
    /// # Errors
    ///
    /// Where sizes or settings do not fit together.
    pub fn init(
        config: &VitConfig,
        policy: &PolicyConfig,
        device: &Device,
    ) -> Result<Self, InferenceError> {
        let model = Self {
            vit: config.init(device)?,
            policy: policy.init(config, device)?,
            config: config.clone(),
        };
        initialize(&model);
        Ok(model)
    }

    /// A model and a policy that was made for it.
    pub fn new(vit: Vit, policy: AnyPolicy, config: VitConfig) -> Self {
        Self {
            vit,
            policy,
            config,
        }
    }

    /// The model's sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// What its matrix products are computed in.
    pub fn precision(&self) -> Precision {
        self.vit.precision()
    }

    /// The same, its matrix products computed in `precision`.
    ///
    /// # Errors
    ///
    /// Where the device does not compute in such floats.
    pub fn with_precision(mut self, precision: Precision) -> Result<Self, InferenceError> {
        let device = self.devices().first().cloned().unwrap_or_default();
        check_precision(precision, &device)?;
        self.vit = self.vit.with_precision(precision);
        Ok(self)
    }

    /// The same model with another policy, whose weights are fresh.
    ///
    /// # Errors
    ///
    /// Where the policy's settings do not fit the model.
    pub fn with_policy(mut self, policy: &PolicyConfig) -> Result<Self, InferenceError> {
        let device = self.vit.devices().first().cloned().unwrap_or_default();
        self.policy = policy.init(&self.config, &device)?;
        initialize(&self);
        Ok(self)
    }

    /// The model for inference alone; see [`Vit::prepack`].
    pub fn prepack(mut self) -> Self {
        if self.policy.parks() {
            self.vit = self.vit.keep_readers();
        }
        self.vit = self.vit.prepack();
        self
    }

    /// How many patches the policy keeps after each of its blocks to compute `share` of the dense FLOPs.
    ///
    /// # Errors
    ///
    /// Where no number of patches computes that.
    pub fn kept_for(&self, share: f64) -> Result<Vec<usize>, InferenceError> {
        Ok(self.policy.kept_for(&self.config, share)?)
    }

    /// Does the policy keep the same number of patches in every image? Then a budget needs no calibration.
    pub fn counts_tokens(&self) -> bool {
        self.policy.budgeting() == Budgeting::Counts
    }

    /// May the policy keep different numbers of patches in images of one batch?
    pub fn leaves_ragged(&self) -> bool {
        let budgeting = self.policy.budgeting();
        budgeting != Budgeting::Counts && budgeting != Budgeting::Schedule
    }

    /// Runs the model, its policy removing what `selection` says unless the mode is dense.
    ///
    /// `images` is `[batch, 3, height, width]`; `seeds` has one entry for each, from which a policy draws random numbers
    /// if it needs some.
    pub fn run(
        &self,
        images: Tensor<4>,
        mode: ExecutionMode,
        selection: &Selection,
        seeds: &[u64],
    ) -> VitOutput {
        let reducer = self.policy.reducer(selection, seeds);
        let settings = RunSettings {
            mode,
            reducer: Some(&*reducer),
        };
        self.vit.forward(images, settings)
    }

    /// FLOPs of image `image` of a batch, the policy's included, and their share of the dense model's.
    pub fn flops(&self, trace: &[LayerTrace], image: usize) -> (u64, f64) {
        let dense = vit_flops(&self.config, &[], image);
        let policy = self.policy.trace_flops(&self.config, trace, image);
        let flops = vit_flops(&self.config, trace, image) + policy;
        (flops, flops as f64 / dense as f64)
    }
}

/// Parameters are made when first used; this uses each once, in order, so that they depend
/// on the seed alone.
pub fn initialize<M: Module>(module: &M) {
    struct Touch;
    impl ModuleVisitor for Touch {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }
    module.visit(&mut Touch);
}

/// # Errors
///
/// Where the device does not compute in such floats.
pub fn check_precision(precision: Precision, device: &Device) -> Result<(), InferenceError> {
    if precision.is_supported(device) {
        return Ok(());
    }
    let able = Precision::ALL.into_iter();
    let able = able.filter(|precision| precision.is_supported(device));
    let able: Vec<&str> = able.map(Precision::name).collect();
    Err(InferenceError::Precision {
        found: precision.name(),
        able: able.join(", "),
    })
}
