//! What a config's values have to be, beyond their types. Each number has a range in which it can work: whatever is
//! multiplied from numbers in their ranges does not overflow.

use std::fmt::Display;
use std::ops::RangeInclusive;

use apt_data::{DataError, DataSource};
use apt_pruning_agent::{BudgetUse, LAYERS, check_blocks};
use apt_vit_model::Precision;

use super::{ExperimentConfig, Freeze};
use crate::TrainerError;

/// Images of a forward pass, and forward passes of an optimiser step.
const BATCH: RangeInclusive<usize> = 1..=65_536;
/// Steps, and numbers of images.
const MANY: usize = 1_000_000_000;
/// Threads that load images; without one, the training's own does.
const WORKERS: RangeInclusive<usize> = 0..=1024;
/// Generated images of a split, and pixels of their sides.
const SHAPES: RangeInclusive<usize> = 1..=10_000_000;
const SHAPES_SIDE: RangeInclusive<usize> = 16..=4096;
const SHAPES_FIGURE: RangeInclusive<f64> = 0.05..=0.55;
/// Blocks that any model can have.
const BLOCKS: usize = 1024;
/// Peaks of the learning rate.
const LEARNING_RATE: f64 = 100.0;
/// The norm that gradients are clipped to.
const GRAD_NORM: f64 = 1e9;
/// Weights of losses and of decay.
const WEIGHT: f64 = 1000.0;
/// Pixels that a training image is shifted by.
const SHIFT: u32 = 4096;
/// Mean and standard deviation of pixels from 0 to 1.
const PIXEL: f32 = 1000.0;

/// Wrong values, as they are found.
#[derive(Default)]
struct Wrong(Vec<TrainerError>);

impl Wrong {
    fn add(&mut self, field: &str, found: impl ToString, expected: impl Into<String>) {
        self.0.push(TrainerError::field(field, found, expected));
    }

    fn within<T: PartialOrd + Display>(&mut self, field: &str, found: T, range: RangeInclusive<T>) {
        // A value that is no number is in no range.
        if !range.contains(&found) {
            let expected = format!("must be from {} to {}", range.start(), range.end());
            self.add(field, found, expected);
        }
    }

    fn positive<T: PartialOrd + Display + From<f32>>(&mut self, field: &str, found: T, most: T) {
        if !(found > T::from(0.0) && found <= most) {
            self.add(field, found, format!("must be above 0 and at most {most}"));
        }
    }
}

impl ExperimentConfig {
    /// # Errors
    ///
    /// Names every field whose value cannot be used.
    pub(super) fn validate(&self) -> Result<(), TrainerError> {
        let mut wrong = Wrong::default();
        self.check_counts(&mut wrong);
        self.check_data(&mut wrong);
        self.check_input(&mut wrong);
        wrong.0.extend(self.model.wrong_values());
        self.check_policy(&mut wrong);
        self.check_numbers(&mut wrong);
        TrainerError::all(wrong.0)
    }

    fn check_counts(&self, wrong: &mut Wrong) {
        let (train, schedule) = (&self.train, &self.schedule);
        let before = wrong.0.len();
        wrong.within("train.steps", train.steps, 1..=MANY);
        wrong.within("train.batch_size", train.batch_size, BATCH);
        let accumulation = train.grad_accumulation_steps;
        wrong.within("train.grad_accumulation_steps", accumulation, BATCH);
        wrong.within("train.eval_interval", train.eval_interval, 1..=MANY);
        wrong.within("train.agent_interval", train.agent_interval, 1..=MANY);
        let interval = train.dense_interval.unwrap_or(1);
        wrong.within("train.dense_interval", interval, 1..=MANY);
        wrong.within("train.dense_steps", train.dense_steps, 0..=MANY);
        let warmup = train.agent_warmup_steps;
        wrong.within("train.agent_warmup_steps", warmup, 0..=MANY);
        wrong.within("train.patience", train.patience.unwrap_or(1), 1..=MANY);
        wrong.within("train.eval_batch_size", train.eval_batch_size, BATCH);
        wrong.within("train.num_workers", train.num_workers, WORKERS);
        if train.dtype == Precision::Int8 {
            let expected =
                "integers have no gradients: train in f32, bf16 or f16, and run the model in int8";
            wrong.add("train.dtype", train.dtype.name(), expected);
        }
        wrong.within("schedule.warmup_steps", schedule.warmup_steps, 0..=MANY);
        if let Some(Freeze::Blocks(blocks)) = train.freeze {
            let most = self.model.known_layers().unwrap_or(BLOCKS);
            wrong.within("train.freeze", blocks, 0..=most);
        }
        if wrong.0.len() > before {
            return;
        }
        if !train.steps.is_multiple_of(train.eval_interval) {
            let interval = train.eval_interval;
            let expected = format!("must be a multiple of train.eval_interval = {interval}");
            wrong.add("train.steps", train.steps, expected);
        }
        if train.dense_steps + train.agent_warmup_steps >= train.steps {
            let expected = format!(
                "with train.agent_warmup_steps = {} must be less than train.steps = {}",
                train.agent_warmup_steps, train.steps
            );
            wrong.add("train.dense_steps", train.dense_steps, expected);
        }
    }

    fn check_data(&self, wrong: &mut Wrong) {
        match self.data {
            DataSource::Shapes {
                size,
                figure,
                train,
                test,
                ..
            } => {
                wrong.within("data.size", size as usize, SHAPES_SIDE);
                wrong.within("data.figure", figure, SHAPES_FIGURE);
                wrong.within("data.train", train, SHAPES);
                wrong.within("data.test", test, SHAPES);
            }
            DataSource::Folder { test_fraction, .. } => {
                if !(test_fraction > 0.0 && test_fraction < 1.0) {
                    let expected = "must be above 0 and below 1";
                    wrong.add("data.test_fraction", test_fraction, expected);
                }
            }
            DataSource::Cifar10 {} | DataSource::Cifar100 { .. } => {}
        }
    }

    fn check_input(&self, wrong: &mut Wrong) {
        let input = &self.input;
        for (field, value) in [
            ("input.train_images", input.train_images.unwrap_or(1)),
            ("input.val_images", input.val_images),
            ("input.test_images", input.test_images.unwrap_or(1)),
        ] {
            wrong.within(field, value, 1..=MANY);
        }
        match input.transform.validate() {
            Err(DataError::Setting {
                field,
                found,
                expected,
            }) => {
                let field = format!("input.transform.{field}");
                wrong.add(&field, found, format!("must be {expected}"));
            }
            Err(other) => wrong.0.push(other.into()),
            Ok(()) => {}
        }
        if let Some(Err(DataError::Setting {
            found, expected, ..
        })) = input.corrupt.map(|corruption| corruption.validate())
        {
            wrong.add("input.corrupt.share", found, format!("must be {expected}"));
        }
        let shift = input.transform.pad_crop;
        wrong.within("input.transform.pad_crop", shift, 0..=SHIFT);
        let normalization = &input.normalization;
        for mean in normalization.mean {
            wrong.within("input.normalization.mean", mean, -PIXEL..=PIXEL);
        }
        for deviation in normalization.std {
            wrong.positive("input.normalization.std", deviation, PIXEL);
        }
    }

    fn check_policy(&self, wrong: &mut Wrong) {
        let chosen = &self.policy.policy;
        let policy = chosen.entry();
        let layers = chosen.settings().get(LAYERS.key);
        if let Some(layers) = layers.and_then(|layers| layers.as_array()) {
            let numbers = layers.iter().filter_map(|layer| layer.as_u64());
            let layers: Vec<usize> = numbers.map(|layer| layer as usize).collect();
            let blocks = self.model.known_layers().unwrap_or(BLOCKS);
            if let Err(error) = check_blocks(&layers, blocks) {
                wrong.0.push(error.into());
            }
        }
        let threshold = chosen.settings().get("threshold");
        if let Some(threshold) = threshold.and_then(|threshold| threshold.as_f64()) {
            wrong.within("policy.threshold", threshold, 0.0..=1.0);
        }
        let is_share = |share: &&f64| **share > 0.0 && **share <= 1.0;
        if let Some(share) = self.flops.iter().find(|share| !is_share(share)) {
            let expected = "must be shares of the dense FLOPs, above 0 and at most 1";
            wrong.add("flops", format!("{share:?}"), expected);
        }
        if !self.flops.is_empty() && policy.budget == BudgetUse::Impossible {
            let name = policy.name;
            let expected = format!("must be empty: the policy \"{name}\" removes nothing");
            wrong.add("flops", format!("{:?}", self.flops), expected);
        }
        if self.flops.is_empty() && policy.budget == BudgetUse::Needed {
            let expected = format!(
                "must name at least one share of the dense FLOPs, as in flops = [0.5]: the policy \"{}\" does not prune \
                 without a budget",
                policy.name
            );
            wrong.add("flops", "[]", expected);
        }
        let algorithm = self.policy.algorithm.as_ref();
        let from_backward =
            algorithm.is_some_and(|algorithm| algorithm.entry().learns_from_backward);
        if self.train.gradient_checkpointing && from_backward {
            let expected =
                "must be false where the policy learns from the model's own backward pass";
            wrong.add("train.gradient_checkpointing", true, expected);
        }
        if self.train.gradient_checkpointing && self.train.distillation_weight > 0.0 {
            let expected = "must be 0 where train.gradient_checkpointing = true";
            let found = self.train.distillation_weight;
            wrong.add("train.distillation_weight", found, expected);
        }
    }

    fn check_numbers(&self, wrong: &mut Wrong) {
        let optimizer = &self.optimizer;
        let clip = f64::from(self.train.max_grad_norm);
        wrong.positive("train.max_grad_norm", clip, GRAD_NORM);
        for (field, rate) in [
            ("optimizer.learning_rate", Some(optimizer.learning_rate)),
            ("optimizer.head_learning_rate", optimizer.head_learning_rate),
            (
                "optimizer.agent_learning_rate",
                optimizer.agent_learning_rate,
            ),
        ] {
            if let Some(rate) = rate {
                wrong.positive(field, rate, LEARNING_RATE);
            }
        }
        for (field, value) in [
            ("optimizer.momentum", optimizer.momentum),
            ("optimizer.betas", f64::from(optimizer.betas[0])),
            ("optimizer.betas", f64::from(optimizer.betas[1])),
        ] {
            if !(0.0..1.0).contains(&value) {
                wrong.add(field, value, "must be at least 0 and below 1");
            }
        }
        let decay = f64::from(optimizer.weight_decay);
        wrong.within("optimizer.weight_decay", decay, 0.0..=WEIGHT);
        let distillation = self.train.distillation_weight;
        wrong.within("train.distillation_weight", distillation, 0.0..=WEIGHT);
    }
}
