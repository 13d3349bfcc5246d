//! Agents learn on a frozen model which patches mislead it: without labels, from what the model makes of whole images.
//!
//! Observation: a token of an image of which some patches are replaced. Action: remove it. Reward: how much nearer the features
//! (the CLS token after the last norm) come to those of the whole image, as 1 - cosine, and a tenth of how much nearer the answer comes, as
//! KL of classes. Classes alone say little where the model is certain, and features alone nothing of which of them a head reads.
//! It is known to first order, for all tokens of all blocks from one backward pass, in a random coalition of the patches. Loss:
//! cross-entropy against the sign of the reward. Each token weighs as much as its reward is large among those of its image, so that
//! an agent removes with a probability above a half what misleads in the mean. Elsewhere the sign of such a reward means nothing
//! (see [`first_order`](crate::algorithm::first_order)); here the answer that is wanted is known.

use apt_inference::Answers;
use apt_pruning_agent::{Agents, AnyPolicy};
use apt_vit_model::host::upload;
use burn::prelude::*;
use burn::tensor::activation::log_sigmoid;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

use super::agents::{AgentSettings, FrozenModel, Practice, Task, learn_task};
use super::distance::distance;
use crate::TrainerError;
use crate::algorithm::first_order::Rewards;
use crate::algorithm::rows_of;
use crate::evaluate::dense_outputs;

/// How much of the reward is the answer's, beside the features'.
const OF_ANSWER: f32 = 0.1;

/// The policy, its agents having learned which patches mislead the frozen model. The images are corrupted
/// ([`ImageDataset::corrupted`](apt_data::ImageDataset::corrupted)). `go_on` is told the share that is over, and says whether to go on.
///
/// # Errors
///
/// Where the images are not corrupted, the policy has no agents, a budget cannot be met, an image cannot be read, or the model's
/// answer to it is no number.
pub(super) fn learn_restoring(
    frozen: &FrozenModel<'_>,
    policy: AnyPolicy,
    settings: &AgentSettings,
    go_on: impl FnMut(f64) -> bool,
) -> Result<AnyPolicy, TrainerError> {
    if frozen.images.corruption().is_none() {
        let reason =
            "from images as they were nothing is learned of patches that do not belong there";
        return Err(TrainerError::Pruning(reason.into()));
    }
    learn_task(&Restoring, frozen, policy, settings, go_on)
}

/// What misleads the model.
struct Restoring;

impl Task for Restoring {
    fn rewards(
        &self,
        practice: Practice<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Rewards>, TrainerError> {
        let frozen = practice.frozen;
        let were = practice.images.as_they_were();
        let were = were.subset(&practice.batch.indices);
        let wanted = dense_outputs(frozen.packed, &were, frozen.evaluation, frozen.device)?;
        let answers = Answers::of(frozen.model.config());
        let coalitions = ChaCha8Rng::from_rng(rng);
        practice.rewards(Some(coalitions), |found| {
            let features = distance(
                wanted.features.autodiff(),
                found.features,
                Answers::Features,
            );
            let answer = distance(wanted.logits.autodiff(), found.logits, answers);
            features + answer * OF_ANSWER
        })
    }

    fn losses(&self, agents: &dyn Agents, rewards: &[Rewards]) -> Vec<Tensor<1>> {
        let of_block =
            |(index, rewards): (usize, &Rewards)| cross_entropy_of_signs(agents, index, rewards);
        rewards.iter().enumerate().map(of_block).collect()
    }
}

/// Of the agent's opinions against whether removal earns something, `[1]`.
fn cross_entropy_of_signs(
    agents: &dyn Agents,
    index: usize,
    (decision, rewards): &Rewards,
) -> Tensor<1> {
    let device = decision.hidden.device();
    let images = decision.image_of_each_row();
    let mut sums = vec![0.0; decision.sequences.batch()];
    for (&image, reward) in images.iter().zip(rewards) {
        sums[image] += reward.unwrap_or(0.0).abs();
    }
    let (mut rows, mut signs, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for (row, reward) in rewards.iter().enumerate() {
        let Some(reward) = reward else { continue };
        let sum = sums[images[row]];
        if sum > 0.0 {
            rows.push(row);
            signs.push(reward.signum());
            weights.push(reward.abs() / sum);
        }
    }
    if rows.is_empty() {
        return Tensor::zeros([1], &device);
    }
    let logits = agents.logits(index, &decision.observation());
    // The log-odds of removal.
    let odds = logits.clone().narrow(1, 1, 1) - logits.narrow(1, 0, 1);
    let count = rows.len();
    let odds = rows_of(odds, &rows);
    let [signs, weights] = [signs, weights].map(|values| upload(values, [count], &odds.device()));
    -(log_sigmoid(odds * signs) * weights).sum() / sums.len() as f32
}
