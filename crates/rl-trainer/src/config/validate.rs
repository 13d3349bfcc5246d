//! What a config's values have to be, beyond their types.

use apt_pruning_agent::BudgetUse;

use super::ExperimentConfig;
use crate::TrainerError;

fn wrong(field: &str, found: impl ToString, expected: impl Into<String>) -> TrainerError {
    TrainerError::Field {
        field: field.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}

impl ExperimentConfig {
    /// # Errors
    ///
    /// Names the first field whose value cannot be used.
    pub(super) fn validate(&self) -> Result<(), TrainerError> {
        self.validate_counts()?;
        self.validate_policy()?;
        self.input.transform.validate()?;
        self.validate_numbers()
    }

    fn validate_counts(&self) -> Result<(), TrainerError> {
        let (train, input) = (&self.train, &self.input);
        for (field, value) in [
            ("train.steps", train.steps),
            ("train.batch_size", train.batch_size),
            (
                "train.grad_accumulation_steps",
                train.grad_accumulation_steps,
            ),
            ("train.eval_interval", train.eval_interval),
            ("train.agent_interval", train.agent_interval),
            ("train.dense_interval", train.dense_interval.unwrap_or(1)),
            ("train.patience", train.patience.unwrap_or(1)),
            ("train.eval_batch_size", train.eval_batch_size),
            ("input.train_images", input.train_images.unwrap_or(1)),
            ("input.val_images", input.val_images),
            ("input.test_images", input.test_images.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(wrong(field, 0, "must be at least 1"));
            }
        }
        if !train.steps.is_multiple_of(train.eval_interval) {
            let expected = format!(
                "must be a multiple of train.eval_interval = {}",
                train.eval_interval
            );
            return Err(wrong("train.steps", train.steps, expected));
        }
        if train.dense_steps + train.agent_warmup_steps >= train.steps {
            let expected = format!(
                "with train.agent_warmup_steps = {} must be less than train.steps = {}",
                train.agent_warmup_steps, train.steps
            );
            return Err(wrong("train.dense_steps", train.dense_steps, expected));
        }
        Ok(())
    }

    fn validate_policy(&self) -> Result<(), TrainerError> {
        let policy = self.policy.policy.entry();
        let is_share = |share: &&f64| **share > 0.0 && **share <= 1.0;
        if let Some(share) = self.flops.iter().find(|share| !is_share(share)) {
            let expected = "must be shares of the dense FLOPs, above 0 and at most 1";
            return Err(wrong("flops", share, expected));
        }
        if !self.flops.is_empty() && policy.budget == BudgetUse::Impossible {
            let expected = format!(
                "must be empty: the policy \"{}\" removes nothing",
                policy.name
            );
            return Err(wrong("flops", format!("{:?}", self.flops), expected));
        }
        if self.flops.is_empty() && policy.budget == BudgetUse::Needed {
            let expected = format!(
                "must name at least one share of the dense FLOPs, as in flops = [0.5]: the policy \"{}\" does not prune \
                 without a budget",
                policy.name
            );
            return Err(wrong("flops", "[]", expected));
        }
        let algorithm = self.policy.algorithm.as_ref();
        let from_backward =
            algorithm.is_some_and(|algorithm| algorithm.entry().learns_from_backward);
        if self.train.gradient_checkpointing && from_backward {
            let expected =
                "must be false where the policy learns from the model's own backward pass";
            return Err(wrong("train.gradient_checkpointing", true, expected));
        }
        if self.train.gradient_checkpointing && self.train.distillation_weight > 0.0 {
            let expected = "must be 0 where train.gradient_checkpointing = true";
            let found = self.train.distillation_weight;
            return Err(wrong("train.distillation_weight", found, expected));
        }
        Ok(())
    }

    fn validate_numbers(&self) -> Result<(), TrainerError> {
        let optimizer = &self.optimizer;
        for (field, value) in [
            (
                "train.max_grad_norm",
                Some(f64::from(self.train.max_grad_norm)),
            ),
            ("optimizer.learning_rate", Some(optimizer.learning_rate)),
            ("optimizer.head_learning_rate", optimizer.head_learning_rate),
            (
                "optimizer.agent_learning_rate",
                optimizer.agent_learning_rate,
            ),
        ] {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
                return Err(wrong(field, value, "must be above 0"));
            }
        }
        for (field, value) in [
            ("optimizer.momentum", optimizer.momentum),
            ("optimizer.betas", f64::from(optimizer.betas[0])),
            ("optimizer.betas", f64::from(optimizer.betas[1])),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(wrong(field, value, "must be at least 0 and below 1"));
            }
        }
        for (field, value) in [
            ("optimizer.weight_decay", f64::from(optimizer.weight_decay)),
            ("train.distillation_weight", self.train.distillation_weight),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(wrong(field, value, "must be at least 0"));
            }
        }
        Ok(())
    }
}
