//! A policy and an algorithm that these crates do not know, trained on generated shapes and evaluated at a budget.
//!
//! The policy drops the tokens that a linear layer scores lowest, after block 1. The algorithm tries random decisions and
//! makes those likelier that answered better than the batch did. `cargo run --release -p apt-rl-trainer --example
//! own_policy` takes a minute and a half.

use apt_pruning_agent::*;
use apt_rl_trainer::algorithm::sampling::{flops_of_group, mean_reward, sample_group};
use apt_rl_trainer::algorithm::*;
use apt_rl_trainer::{ExperimentConfig, Outcome, TrainOptions, train};
use apt_vit_model::{FlopsCount, Observation, TokenReducer, VitConfig};
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::Gradients;
use serde::{Deserialize, Serialize};

/// `policy = "linear"` has no settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct LinearSettings {}

impl PolicySettings for LinearSettings {
    const NAME: &'static str = "linear";
    const SUMMARY: &'static str = "drops the tokens that a linear layer scores lowest";
    const ALGORITHMS: &'static [&'static str] = &["better-than-the-batch"];
    type Policy = LinearPolicy;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<LinearPolicy, AgentError> {
        Ok(LinearPolicy {
            agent: LinearConfig::new(model.hidden_size, 2).init(device),
            blocks: acting_blocks(Some(&vec![1]), model)?,
        })
    }
}

#[derive(Module, Debug)]
struct LinearPolicy {
    agent: Linear,
    #[module(skip)]
    blocks: Vec<usize>,
}

impl Policy for LinearPolicy {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        _: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        Box::new(ScoredReducer::new(self, &self.blocks, selection))
    }

    fn flops(&self, model: &VitConfig, seen: usize, _: usize) -> FlopsCount {
        2 * (seen * model.hidden_size * 2) as u64
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_rates(self, model, share)
    }

    fn agents(&self) -> Option<&dyn Agents> {
        Some(self)
    }
}

impl Agents for LinearPolicy {
    fn logits(&self, _: usize, observation: &Observation<'_>) -> Tensor<2> {
        self.agent.forward(observation.hidden.clone())
    }

    fn noisy_reducer<'a>(
        &'a self,
        selection: &Selection,
        noise: SelectionNoise,
    ) -> Box<dyn TokenReducer + 'a> {
        Box::new(ScoredReducer::new(self, &self.blocks, selection).with_noise(noise))
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct BetterSettings {}

impl AlgorithmSettings for BetterSettings {
    const NAME: &'static str = "better-than-the-batch";
    const SUMMARY: &'static str = "make decisions likelier that answer better than the batch does";

    fn init(&self) -> Result<Box<dyn Algorithm>, String> {
        Ok(Box::new(Better))
    }
}

#[derive(Debug)]
struct Better;

impl Algorithm for Better {
    fn begin<'a>(&'a self, pass: &'a Pass<'a>) -> Box<dyn Lesson + 'a> {
        Box::new(Tries(pass))
    }

    fn flops(&self, model: &VitConfig, policy: &dyn Policy, share: f64) -> FlopsCount {
        let [trying, learning] = flops_of_group(model, policy, share, 2);
        trying + learning
    }
}

struct Tries<'a>(&'a Pass<'a>);

impl Lesson for Tries<'_> {
    fn losses(self: Box<Self>, _: Option<&Gradients>, _: f32) -> PolicyLosses {
        let samples = sample_group(self.0, 2, 1.0);
        let mean = mean_reward(&samples) as f32;
        let losses = samples.iter().map(|sample| {
            let seen = &sample.decisions[0];
            let logits = self.0.agents.logits(0, &seen.observation());
            let likelihoods = log_likelihoods(seen, logits, 1.0);
            let image = seen.image_of_each_row();
            let rows = seen.patch_rows().into_iter();
            let better: Vec<f32> = rows.map(|row| sample.rewards[image[row]] - mean).collect();
            let better = Tensor::<1>::from_data(better.as_slice(), &likelihoods.device());
            -(likelihoods * better).mean()
        });
        let of_blocks = losses.reduce(|sum, loss| sum + loss).into_iter().collect();
        PolicyLosses {
            of_blocks,
            ..Default::default()
        }
    }
}

const CONFIG: &str = r#"
policy = "linear"
flops = [0.655]
data = { source = "shapes" }
input = { val_images = 500, transform = { pad_crop = 2 } }
model = { preset = "vit-tiny32", dropout = 0.0 }
train = { steps = 1200, eval_interval = 400, batch_size = 32, grad_accumulation_steps = 1, dense_steps = 400, dense_interval = 3 }
optimizer = { name = "adamw", learning_rate = 0.001 }
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    register_policy::<LinearSettings>()?;
    register_algorithm::<BetterSettings>()?;
    let config = ExperimentConfig::parse(CONFIG, "own policy", &[])?;
    let out = std::env::temp_dir().join(format!("own-policy-{}", std::process::id()));
    if let Outcome::Finished(summary) = train(config, &out, &TrainOptions::default())? {
        let accuracies = [summary.dense_accuracy, summary.pruned_accuracy];
        println!("dense and pruned accuracy: {accuracies:.3?}");
        println!("share of the FLOPs: {:.3}", summary.flops_share);
    }
    Ok(())
}
