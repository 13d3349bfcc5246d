use std::path::Path;

use apt_data::{RgbImage, eval_image};
use apt_pruning_agent::{Budgeting, PolicyConfig, Selection};
use apt_vit_model::{ExecutionMode, ImageSize, Precision, VitOutput};
use burn::module::Module;
use burn::prelude::*;

use crate::answer::probabilities;
use crate::budgets::{Budget, Budgets};
use crate::class_names::distinct;
use crate::description::Description;
use crate::opening::{ModelSource, OpenOptions, Parts};
use crate::rows::rows;
use crate::{Answer, Answers, ClassProbability, InferenceError, NotFinite, PruningVit, exported};

/// The policy of a model that was trained with none.
const WITHOUT_TRAINING: &str = "tome";

/// A Vision Transformer with its policy, its budgets and its preprocessing: it answers.
#[derive(Clone, Debug)]
pub struct Model {
    pruning: PruningVit,
    description: Description,
    checkpoint: String,
    budgets: Budgets,
    selection: Selection,
    source: ModelSource,
    /// Has nobody trained the policy with this model?
    is_fresh: bool,
}

impl Model {
    /// Opens a run's folder, an exported folder, or published weights (a file, or a folder as Hugging Face lays one out)
    /// on `device`. It prunes as it was trained to; published weights are dense until
    /// [`prune_to`](Self::prune_to) is called.
    ///
    /// # Errors
    ///
    /// Where it is none of these, or is damaged.
    pub fn open(path: &Path, device: &Device) -> Result<Self, InferenceError> {
        Self::open_with(path, OpenOptions::default(), device)
    }

    /// As [`open`](Self::open), with another of a run's checkpoints, or in another precision.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and where the device does not compute in such floats.
    pub fn open_with(
        path: &Path,
        options: OpenOptions,
        device: &Device,
    ) -> Result<Self, InferenceError> {
        Self::new(
            Parts::open(path, options.checkpoint, device)?,
            options.precision,
        )
    }

    /// The files of an exported folder from memory: `aptvit.json`, `model.safetensors`, `config.json` and
    /// `policy.safetensors`; the last where the policy has weights.
    ///
    /// # Errors
    ///
    /// Where they are damaged or do not fit together.
    pub fn from_bytes(
        aptvit_json: &str,
        weights: Vec<u8>,
        config_json: Option<&[u8]>,
        policy: Option<Vec<u8>>,
        device: &Device,
    ) -> Result<Self, InferenceError> {
        let (pruning, export) =
            exported::from_bytes(aptvit_json, weights, config_json, policy, device)?;
        Self::new(Parts::of_export(pruning, export), None)
    }

    /// A model that prunes as it was trained to; a budget that was not calibrated yet is no error until it is asked for.
    fn new(parts: Parts, precision: Option<Precision>) -> Result<Self, InferenceError> {
        let mut pruning = parts.pruning.valid();
        if let Some(precision) = precision {
            pruning = pruning.with_precision(precision)?;
        }
        let mut model = Self {
            pruning: pruning.prepack(),
            selection: Selection::All,
            // Published weights say nothing of how they are pruned.
            is_fresh: parts.source == ModelSource::Weights,
            description: parts.description,
            checkpoint: parts.checkpoint,
            budgets: parts.budgets,
            source: parts.source,
        };
        model.selection = match model.selection_for(None) {
            Err(InferenceError::NotCalibrated { .. }) => Selection::All,
            found => found?,
        };
        Ok(model)
    }

    /// The same model with another policy, whose weights are fresh where it has some. It removes nothing until
    /// [`prune_to`](Self::prune_to) is called.
    ///
    /// # Errors
    ///
    /// Where there is no such policy.
    pub fn with_policy(mut self, policy: PolicyConfig) -> Result<Self, InferenceError> {
        self.pruning = self.pruning.with_policy(&policy)?;
        self.is_fresh = true;
        self.description.policy = policy;
        self.description.flops.clear();
        self.budgets = Budgets::default();
        self.selection = Selection::All;
        Ok(self)
    }

    /// The same model with other names of its classes, in the order of the logits; one that several have gets their numbers.
    ///
    /// # Errors
    ///
    /// Where there are more or fewer of them than classes.
    pub fn with_class_names(mut self, names: Vec<String>) -> Result<Self, InferenceError> {
        let expected = self.description.class_names.len();
        if names.len() != expected {
            let found = names.len();
            return Err(InferenceError::ClassNames { found, expected });
        }
        self.description.class_names = distinct(names);
        Ok(self)
    }

    /// From now on it computes this share of the dense model's FLOPs, the policy's own included. A dense model gets ToMe
    /// for that, which needs no training.
    ///
    /// # Errors
    ///
    /// Where the policy cannot compute so little or so much, or has to be calibrated first; the error says how.
    pub fn prune_to(&mut self, share: f64) -> Result<&mut Self, InferenceError> {
        if self.description.policy.name() == "dense" {
            let policy = PolicyConfig::named(WITHOUT_TRAINING)?;
            let mut other = self.clone().with_policy(policy)?;
            other.selection = other.selection_for(Some(share))?;
            *self = other;
        } else {
            self.selection = self.selection_for(Some(share))?;
        }
        Ok(self)
    }

    /// From now on it removes what `selection` says.
    pub fn select(&mut self, selection: Selection) -> &mut Self {
        self.selection = selection;
        self
    }

    /// What meets the share `target` of the dense FLOPs; where it is absent, the first of the shares that the policy was
    /// trained for, or what it removes without a budget.
    ///
    /// # Errors
    ///
    /// Where the policy cannot compute so little or so much, or has to be calibrated first; the error says how.
    pub fn selection_for(&self, target: Option<f64>) -> Result<Selection, InferenceError> {
        let description = &self.description;
        let usual = description.flops.first().copied();
        let Some(share) = target.or(usual) else {
            return Ok(description.policy.without_budget());
        };
        if self.pruning.policy.budgeting() == Budgeting::Counts {
            if self.pruning.policy.blocks().is_empty() && share < 1.0 {
                return Err(InferenceError::Unprunable(description.policy.name()));
            }
            let kept = self.pruning.kept_for(share)?;
            return Ok(Selection::Kept { kept });
        }
        match self.budgets.find(share, &self.checkpoint) {
            Some(budget) => Ok(budget.selection.clone()),
            // Fresh agents have nothing to be calibrated for: every image keeps as many patches.
            None if self.is_fresh => {
                let kept = self.pruning.kept_for(share)?;
                Ok(Selection::Kept { kept })
            }
            None if self.source == ModelSource::Export => {
                let budgets = &self.budgets.0;
                let known: Vec<String> =
                    budgets.iter().map(|b| b.target_flops.to_string()).collect();
                Err(InferenceError::NotExported {
                    share,
                    known: known.join(", "),
                })
            }
            None => Err(InferenceError::NotCalibrated {
                share,
                checkpoint: self.checkpoint.clone(),
            }),
        }
    }

    /// What it says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The checkpoint that it is of; empty of published weights.
    pub fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

    /// The budgets for which it was calibrated.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Adds a budget for which it was calibrated.
    pub fn add_budget(&mut self, budget: Budget) {
        self.budgets.add(budget);
    }

    /// What it was opened from.
    pub fn source(&self) -> ModelSource {
        self.source
    }

    /// How much it removes.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Model and policy, laid out for inference.
    pub fn pruning(&self) -> &PruningVit {
        &self.pruning
    }

    /// The classes, in the order of the logits.
    pub fn class_names(&self) -> &[String] {
        &self.description.class_names
    }

    /// Images as the model wants them, `[batch, 3, height, width]`.
    pub fn preprocess(&self, images: &[RgbImage]) -> Tensor<4> {
        let ImageSize { height, width } = self.description.model.image_size;
        let (transform, normalization) =
            (&self.description.transform, &self.description.normalization);
        let mut values = vec![0.0; images.len() * 3 * height * width];
        for (image, values) in images
            .iter()
            .zip(values.chunks_exact_mut(3 * height * width))
        {
            let size = [height as u32, width as u32];
            eval_image(image, size, transform, normalization, values);
        }
        let data = TensorData::new(values, [images.len(), 3, height, width]);
        Tensor::from_data(data, &self.device())
    }

    /// Runs the model on preprocessed images: logits, and what was removed.
    pub fn forward(&self, images: Tensor<4>) -> VitOutput {
        let seeds: Vec<u64> = (0..images.dims()[0] as u64).collect();
        let mode = ExecutionMode::Drop;
        self.pruning.run(images, mode, &self.selection, &seeds)
    }

    /// The `top` most probable classes of each image, or without a head its features, and what it cost to find them; or that
    /// these are no numbers.
    pub fn classify(&self, images: &[RgbImage], top: usize) -> Vec<Result<Answer, NotFinite>> {
        if images.is_empty() {
            return Vec::new();
        }
        self.answers(self.forward(self.preprocess(images)), top)
    }

    /// The answers that a pass of [`forward`](Self::forward) gives, as [`classify`](Self::classify).
    pub fn answers(&self, output: VitOutput, top: usize) -> Vec<Result<Answer, NotFinite>> {
        let [images, width] = output.logits.dims();
        let values: Vec<f32> = output.logits.into_data().iter::<f32>().collect();
        let reductions = self.reductions(&output.trace, images);
        let images = values.chunks_exact(width).zip(reductions);
        let kind = Answers::of(self.pruning.config());
        let answers = images.map(|(values, reduced)| {
            NotFinite::check(kind.name(), values)?;
            let (classes, features) = match kind {
                Answers::Logits => (self.top_classes(values, top), Vec::new()),
                Answers::Features => (Vec::new(), values.to_vec()),
            };
            Ok(Answer {
                classes,
                features,
                tokens: self.pruning.config().num_tokens(),
                layers: reduced.layers,
                flops: reduced.flops,
                flops_share: reduced.flops_share,
            })
        });
        answers.collect()
    }

    /// The `top` most probable classes by the logits of one image, the first one first.
    pub fn top_classes(&self, logits: &[f32], top: usize) -> Vec<ClassProbability> {
        let probabilities = probabilities(logits);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let classes = order.into_iter().take(top).map(|index| ClassProbability {
            class: self.description.class_names[index].clone(),
            index,
            probability: probabilities[index],
        });
        classes.collect()
    }

    /// The CLS token of each image after the last norm, pruned as the model is: a vector of the model's width for each,
    /// or that it is none of numbers.
    pub fn embed(&self, images: &[RgbImage]) -> Vec<Result<Vec<f32>, NotFinite>> {
        if images.is_empty() {
            return Vec::new();
        }
        let images = self.preprocess(images);
        let features = rows(self.forward_with(images, &self.selection).features);
        let features = features.into_iter();
        features
            .map(|features| NotFinite::check("features", &features).map(|()| features))
            .collect()
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        let devices = self.pruning.vit.devices();
        devices.first().cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
