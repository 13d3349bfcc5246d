//! What is trained.

use std::path::Path;
use std::sync::Arc;

use apt_data::mix_seed;
use apt_inference::{Choice, PruningVit, Run, check_precision, initialize};
use apt_pruning_agent::{AnyPolicy, TokenPredictor};
use apt_vit_model::{CheckpointHead, Vit, VitConfig};
use burn::module::Module;
use burn::prelude::*;

use super::freeze::freeze;
use super::session::Session;
use crate::TrainerError;
use crate::algorithm::{Algorithm, Purpose};
use crate::config::{ExperimentConfig, Freeze};

/// A Vision Transformer, its policy, and what the policy's algorithm trains beside them.
#[derive(Module, Debug)]
pub struct Trainee {
    /// The model.
    pub vit: Vit,
    /// Who decides which tokens stay.
    pub policy: AnyPolicy,
    /// The algorithm's critics, one for each of the policy's blocks, where it has such.
    pub critics: Vec<TokenPredictor>,
    #[module(skip)]
    pub(super) config: VitConfig,
    /// How it is trained; none outside of a training.
    #[module(skip)]
    pub(super) session: Option<Arc<Session>>,
}

impl Trainee {
    /// Creates the model of a config with fresh weights, or those that it names, on `device`.
    ///
    /// # Errors
    ///
    /// Where sizes do not fit together or pretrained weights do not load.
    pub fn new(
        config: &ExperimentConfig,
        num_classes: usize,
        device: &Device,
    ) -> Result<Self, TrainerError> {
        let sizes = config.model.resolve(num_classes)?;
        device.seed(mix_seed(&[config.seed, Purpose::Weights as u64]));
        let PruningVit { vit, policy, .. } =
            PruningVit::init(&sizes, &config.policy.policy, device)?;
        let algorithm = init_algorithm(config)?;
        let critic = algorithm.and_then(|algorithm| algorithm.critic(sizes.hidden_size));
        let critics: Vec<TokenPredictor> = match critic {
            Some(critic) => policy
                .blocks()
                .iter()
                .map(|_| critic.init(device))
                .collect(),
            None => Vec::new(),
        };
        initialize(&critics);
        let mut model = Self {
            vit,
            policy,
            critics,
            config: sizes,
            session: None,
        };
        if let Some(mut checkpoint) = config.model.checkpoint()? {
            let (head, resize) = (CheckpointHead::Fresh, config.model.pos_embed_resize);
            model.vit = checkpoint.load(model.vit, &model.config, head, resize)?;
        }
        check_precision(config.train.dtype, device).map_err(TrainerError::precision)?;
        model.vit = model.vit.with_precision(config.train.dtype);
        model.vit = freeze(model.vit, config.train.freeze)?;
        Ok(model)
    }

    /// The model's sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Model and policy, as they are.
    pub fn pruning(&self) -> PruningVit {
        PruningVit::new(self.vit.clone(), self.policy.clone(), self.config.clone())
    }

    /// The same for the model and the policy of another one.
    pub fn with_pruning(self, pruning: PruningVit) -> Self {
        let config = pruning.config().clone();
        Self {
            vit: pruning.vit,
            policy: pruning.policy,
            config,
            ..self
        }
    }

    /// The same, part of its model not learning.
    ///
    /// # Errors
    ///
    /// Where the model has not so many blocks.
    pub fn with_frozen(mut self, part: Option<Freeze>) -> Result<Self, TrainerError> {
        self.vit = freeze(self.vit, part)?;
        Ok(self)
    }

    pub(crate) fn with_session(mut self, session: Arc<Session>) -> Self {
        self.session = Some(session);
        self
    }

    /// The same with the weights of the best dense checkpoint of another run, head included.
    ///
    /// # Errors
    ///
    /// Where that run has no checkpoint, or a model of other sizes or classes.
    pub fn starting_from(mut self, folder: &Path) -> Result<Self, TrainerError> {
        let run = Run::open(folder)?;
        let found = &run.description.model;
        if *found != self.config {
            let text = |config: &VitConfig| serde_json::to_string(config).unwrap_or_default();
            return Err(TrainerError::Field {
                field: "model.init_from_run".into(),
                found: format!("{}, a model of {}", folder.display(), text(found)),
                expected: format!("must be a run whose model is {}", text(&self.config)),
            });
        }
        let device = self.vit.devices().first().cloned().unwrap_or_default();
        let checkpoint = run.checkpoints().choose(Choice::BestDense)?;
        let start = run.load_model(&checkpoint, &device)?;
        self.vit = self
            .vit
            .try_load_record(start.vit.into_record())
            .map_err(|error| TrainerError::RunFolder {
                path: folder.to_path_buf(),
                reason: format!("its model does not fit: {error}"),
            })?;
        Ok(self)
    }
}

/// Does the policy fit the model? So that this is known before images are read.
///
/// # Errors
///
/// Where its settings make no sense.
pub(crate) fn check_policy(config: &ExperimentConfig) -> Result<(), TrainerError> {
    let entry = config.policy.policy.entry();
    if entry.for_frozen {
        let name = entry.name;
        let expected = format!(
            "must be a policy that a training can use: \"{name}\" is taught on a frozen model. Train with another, as with \"dense\" \
             or \"pairs\", and then: aptvit prune --model RUN --policy {name}"
        );
        return Err(TrainerError::field("policy", format!("{name:?}"), expected));
    }
    // How many classes there are does not matter to it.
    let sizes = config.model.resolve(2)?;
    let policy = config.policy.policy.init(&sizes, &Device::default())?;
    for &share in &config.flops {
        policy.kept_for(&sizes, share)?;
    }
    if config.train.gradient_checkpointing && (policy.exits().is_some() || policy.parks()) {
        return Err(TrainerError::field(
            "train.gradient_checkpointing",
            true,
            "must be false where images are answered before the last block or tokens are parked: blocks that are computed anew do not know of that",
        ));
    }
    Ok(())
}

/// The algorithm of a config's policy.
pub(crate) fn init_algorithm(
    config: &ExperimentConfig,
) -> Result<Option<Box<dyn Algorithm>>, TrainerError> {
    let algorithm = config.policy.algorithm.as_ref();
    let algorithm = algorithm.map(|algorithm| algorithm.init()).transpose();
    algorithm.map_err(|reason| TrainerError::Config {
        origin: "policy.algorithm".into(),
        reason,
    })
}
