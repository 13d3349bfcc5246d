//! What is removed, and by whom.

use anyhow::{Context, Result};
use apt_rl_trainer::sweep::{DENSE, SweptPolicy};
use apt_rl_trainer::{ExperimentConfig, PolicySection};

/// The budget of a policy that was asked for without one.
const USUAL_SHARE: f64 = 0.5;

/// What is removed, and by whom.
#[derive(Clone, Debug)]
pub struct Policy {
    pub name: String,
    /// Shares of the dense FLOPs; none where nothing is removed.
    pub shares: Vec<f64>,
}

impl Policy {
    /// The policy of that name, at these budgets; what it says goes into `config`.
    pub fn named(name: &str, shares: &[f64], config: &mut ExperimentConfig) -> Result<Self> {
        let swept = SweptPolicy::parse(name).context("--policy")?;
        let shares = match shares {
            _ if swept.base == DENSE => Vec::new(),
            [] => vec![USUAL_SHARE],
            shares => shares.to_vec(),
        };
        // Who decides and how that is learned is the policy's business.
        config.policy = PolicySection::named(swept.base)?;
        config.flops.clone_from(&shares);
        at_work(config);
        let text = config.to_toml()?;
        *config = ExperimentConfig::parse(&text, "bench", &swept.overrides).context("--policy")?;
        Ok(Self {
            name: swept.name,
            shares,
        })
    }

    /// A run's own, at its own budgets or others. In a training step that is timed, it acts and learns.
    pub fn of_run(config: &mut ExperimentConfig, shares: &[f64]) -> Self {
        at_work(config);
        let shares = match shares {
            [] => config.flops.clone(),
            shares => shares.to_vec(),
        };
        Self {
            name: config.policy.policy.name().to_string(),
            shares,
        }
    }
}

/// From the first pass on, the policy acts and learns.
fn at_work(config: &mut ExperimentConfig) {
    config.train.dense_steps = 0;
    config.train.agent_warmup_steps = 0;
    config.train.dense_interval = None;
    config.train.agent_interval = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_pruning_agent::policies;

    #[test]
    fn every_policy_can_be_asked_for_by_its_name() {
        for entry in policies() {
            let mut config = ExperimentConfig::default();
            let policy = Policy::named(entry.name, &[0.6], &mut config).unwrap();
            assert_eq!(policy.shares.is_empty(), entry.name == DENSE);
            assert_eq!(Policy::of_run(&mut config, &[]).name, entry.name);
        }
    }

    #[test]
    fn an_unknown_policy_is_refused_with_the_names_there_are() {
        let mut config = ExperimentConfig::default();
        let error = Policy::named("tomato", &[], &mut config).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("--policy") && message.contains("cls-attention"));
    }
}
