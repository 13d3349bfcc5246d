//! Policies by the names that sweeps have for them.

use anyhow::{Context, Result};
use apt_pruning_agent::Merging;
use apt_rl_trainer::ExperimentConfig;
use apt_rl_trainer::sweep::{DENSE, SweptPolicy};

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
    /// The policy of that name, at these budgets; what it says goes into `config`, whose model has `blocks` blocks.
    pub fn named(
        name: &str,
        shares: &[f64],
        config: &mut ExperimentConfig,
        blocks: usize,
    ) -> Result<Self> {
        let swept = SweptPolicy::parse(name).context("--policy")?;
        let shares = match shares {
            _ if swept.name == DENSE => Vec::new(),
            [] => vec![USUAL_SHARE],
            shares => shares.to_vec(),
        };
        // Who decides and how they learn is the policy's business.
        config.agents.network = Default::default();
        config.policy = Default::default();
        config.algorithm = Default::default();
        config.budget.flops.clone_from(&shares);
        config.train.dense_steps = 0;
        config.train.agents_warmup_steps = 0;
        config.train.dense_every = None;
        config.train.agents_every = 1;
        let text = config.to_toml()?;
        *config = ExperimentConfig::parse(&text, "bench", &swept.overrides).context("--policy")?;
        if config.policy.merge == Merging::Matched {
            // As a sweep does.
            config.agents.layers = (0..blocks.max(2) - 1).collect();
        }
        Ok(Self {
            name: swept.name,
            shares,
        })
    }

    /// A run's own, at its own budgets or others.
    pub fn of_run(config: &ExperimentConfig, shares: &[f64]) -> Result<Self> {
        Ok(Self {
            name: name_of(config)?,
            shares: match shares {
                [] => config.budget.flops.clone(),
                shares => shares.to_vec(),
            },
        })
    }
}

/// What a sweep calls the policy of a config: the name that says most and nothing that the config does not say.
fn name_of(config: &ExperimentConfig) -> Result<String> {
    let text = config.to_toml()?;
    let mut found: Option<SweptPolicy> = None;
    for name in SweptPolicy::known() {
        let swept = SweptPolicy::parse(name)?;
        let says_no_more = ExperimentConfig::parse(&text, name, &swept.overrides)
            .is_ok_and(|said| said == *config);
        let most = found.as_ref().map_or(0, |found| found.overrides.len());
        if says_no_more && swept.overrides.len() > most {
            found = Some(swept);
        }
    }
    Ok(found.map_or_else(|| "agents".into(), |swept| swept.name))
}

/// The blocks after which agents act where nobody says: the published ones, or a quarter, a half and three
/// quarters through a model that is not so deep.
pub fn usual_layers(blocks: usize) -> Vec<usize> {
    let published = [2, 5, 8];
    if published.iter().all(|&layer| layer + 1 < blocks) {
        return published.to_vec();
    }
    let mut layers: Vec<usize> = (1..=3)
        .map(|quarter| (blocks * quarter / 4).saturating_sub(1))
        .collect();
    layers.dedup();
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_act_within_any_model() {
        assert_eq!(usual_layers(12), [2, 5, 8]);
        assert_eq!(usual_layers(8), [1, 3, 5]);
        assert_eq!(usual_layers(6), [0, 2, 3]);
        assert_eq!(usual_layers(2), [0]);
        for blocks in 2..30 {
            let layers = usual_layers(blocks);
            assert!(layers.is_sorted_by(|a, b| a < b), "{layers:?}");
            assert!(layers.iter().all(|&layer| layer + 1 < blocks));
        }
    }

    #[test]
    fn a_config_has_the_name_of_the_policy_that_made_it() {
        for name in SweptPolicy::known() {
            let mut config = ExperimentConfig::default();
            let policy = Policy::named(name, &[0.6], &mut config, 12).unwrap();
            assert_eq!(policy.shares.is_empty(), name == DENSE);
            assert_eq!(name_of(&config).unwrap(), name);
        }
        assert_eq!(name_of(&ExperimentConfig::default()).unwrap(), "agents");
    }

    #[test]
    fn an_unknown_policy_is_refused_with_the_names_there_are() {
        let mut config = ExperimentConfig::default();
        let error = Policy::named("tomato", &[], &mut config, 12).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("--policy") && message.contains("cls-attention"));
    }
}
