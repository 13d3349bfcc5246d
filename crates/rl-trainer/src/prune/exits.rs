//! Exits learn on a frozen model what an image would be answered early, and how far that is from the model's own answer.
//!
//! Observation: the first tokens of an image in the exit's block, and how certain the answer is that they give. Action: answer
//! now. Reward: minus the divergence that this adds to what pruning has done already, less the price of the blocks that are
//! saved. Loss: of the lens, the divergence of its answer, on two thirds of what was seen; of the judge, the deviance of an
//! exponential distribution with the foreseen mean, on the rest, which the lens has not learned.

use std::cell::RefCell;

use apt_inference::{Answers, Fidelity};
use apt_pruning_agent::{AnyPolicy, ExitAgent, Exits, Selection, certainty, first_tokens};
use apt_vit_model::host::{read, upload};
use apt_vit_model::{
    ExecutionMode, Heads, Needs, Observation, Placement, Reduction, RunSettings, TokenReducer,
};
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::agents::{FrozenModel, practised};
use super::distance::distance;
use crate::TrainerError;
use crate::evaluate::{check_finite, loader};

/// Passes over the images, each pruned to other budgets.
const PASSES: usize = 2;
/// Images of a pass.
const BATCH: usize = 32;
/// Steps of the lenses and of the judges, and images of a step.
const STEPS: usize = 400;
const STEP_IMAGES: usize = 128;
/// Peaks of the learning rates; they fall as a cosine.
const LENS_RATE: f64 = 1e-3;
const JUDGE_RATE: f64 = 5e-3;
/// One in so many images is seen by judges alone.
const JUDGED: usize = 3;
/// Added divergences below this matter to nobody.
const LEAST: f32 = 1e-4;

/// The policy, its exits taught. `go_on` is told the share that is over, and says whether to go on.
///
/// # Errors
///
/// Where the policy has no exits, an image cannot be read, or the model's answer to it is no number.
pub fn learn_exits(
    frozen: &FrozenModel<'_>,
    policy: AnyPolicy,
    seed: u64,
    mut go_on: impl FnMut(f64) -> bool,
) -> Result<AnyPolicy, TrainerError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let Some(seen) = look(frozen, &policy, &mut rng, |share| go_on(0.8 * share))? else {
        return Ok(policy);
    };
    // By the image, not by the pass in which it was seen.
    let is_judged = |&row: &usize| seen.images[row] % JUDGED == JUDGED - 1;
    let (judged, lensed): (Vec<usize>, Vec<usize>) = (0..seen.images.len()).partition(is_judged);
    if judged.is_empty() || lensed.is_empty() {
        return Ok(policy);
    }
    let vit = frozen.model.vit.clone().freeze().train();
    let answers = Answers::of(frozen.model.config());
    let lens = |exits: &Exits, rows: &Tensor<1, Int>| {
        let heads = Heads::of(&vit);
        let wanted = seen.answers.clone().select(0, rows.clone()).autodiff();
        let of_exit = |(agent, tokens): (&ExitAgent, &Vec<Tensor<2>>)| {
            let tokens = tokens.iter();
            let tokens = tokens.map(|tokens| tokens.clone().select(0, rows.clone()).autodiff());
            let foreseen: Vec<Tensor<2>> = tokens.map(|tokens| agent.foresee(tokens)).collect();
            distance(wanted.clone(), heads.answer(&foreseen).0, answers)
        };
        let losses = exits.agents.iter().zip(&seen.tokens).map(of_exit);
        losses.reduce(|sum, loss| sum + loss)
    };
    let policy = descend(policy, &lensed, LENS_RATE, &mut rng, frozen.device, lens);
    // What remains takes seconds, and a lens without a judge would answer anything.
    go_on(0.9);
    let lessons = seen.lessons(&policy, frozen, answers)?;
    let judge = |exits: &Exits, rows: &Tensor<1, Int>| {
        let of_exit = |(agent, lesson): (&ExitAgent, &Lesson)| {
            let of = |values: &Tensor<2>| values.clone().select(0, rows.clone()).autodiff();
            let found = agent.harm(of(&lesson.certainty));
            (of(&lesson.harm) * found.clone().neg().exp() + found).mean()
        };
        let losses = exits.agents.iter().zip(&lessons).map(of_exit);
        losses.reduce(|sum, loss| sum + loss)
    };
    let policy = descend(policy, &judged, JUDGE_RATE, &mut rng, frozen.device, judge);
    go_on(1.0);
    Ok(policy)
}

/// The policy after some steps down a loss of its exits, each on some of these rows.
fn descend(
    policy: AnyPolicy,
    rows: &[usize],
    rate: f64,
    rng: &mut ChaCha8Rng,
    device: &Device,
    loss: impl Fn(&Exits, &Tensor<1, Int>) -> Option<Tensor<1>>,
) -> AnyPolicy {
    let mut optimizer = AdamWConfig::new().with_weight_decay(1e-2).init();
    let mut learning = policy.train();
    for step in 0..STEPS {
        let count = STEP_IMAGES.min(rows.len());
        let chosen = (0..count).map(|_| rows[rng.random_range(0..rows.len())] as i32);
        let chosen: Vec<i32> = chosen.collect();
        let chosen = Tensor::<1, Int>::from_data(chosen.as_slice(), device);
        let Some(loss) = learning.exits().and_then(|exits| loss(exits, &chosen)) else {
            break;
        };
        let progress = step as f64 / STEPS as f64;
        let rate = rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        let grads = GradientsParams::from_grads(loss.backward(), &learning);
        learning = optimizer.step(rate, learning, grads);
    }
    learning.valid()
}

/// What the exits saw, a row for each image in each pass.
struct Seen {
    /// Which image each row is of.
    images: Vec<usize>,
    /// Per exit, what the heads would see, `[rows, hidden]` each.
    tokens: Vec<Vec<Tensor<2>>>,
    /// The dense model's answers, `[rows, width]`.
    answers: Tensor<2>,
    /// How far the answers at the end were from these.
    moved: Vec<f64>,
}

/// What a judge is to say, and by what.
struct Lesson {
    certainty: Tensor<2>,
    /// What an answer here adds to the divergence, `[rows, 1]`, in nats or as 1 - cosine.
    harm: Tensor<2>,
}

impl Seen {
    /// One for each exit, as its lens sees the images now.
    fn lessons(
        &self,
        policy: &AnyPolicy,
        frozen: &FrozenModel<'_>,
        answers: Answers,
    ) -> Result<Vec<Lesson>, TrainerError> {
        let exits = policy.exits().ok_or_else(no_exits)?;
        let heads = Heads::of(&frozen.model.vit);
        let of_exit = |(agent, tokens): (&ExitAgent, &Vec<Tensor<2>>)| {
            let foreseen = tokens.iter().map(|tokens| agent.foresee(tokens.clone()));
            let foreseen: Vec<Tensor<2>> = foreseen.collect();
            let found = heads.answer(&foreseen).0;
            let moved = moved(answers, &self.answers, &found)?;
            let added = moved.iter().zip(&self.moved);
            let added = added.map(|(early, late)| ((early - late) as f32).max(LEAST));
            let harm = upload(added.collect(), [self.images.len(), 1], frozen.device);
            Ok(Lesson {
                certainty: certainty(found, &agent.shift(tokens[0].clone()), &heads),
                harm,
            })
        };
        exits.agents.iter().zip(&self.tokens).map(of_exit).collect()
    }
}

/// Image by image, how far answers, `[images, width]`, are from those that are wanted.
fn moved(
    answers: Answers,
    wanted: &Tensor<2>,
    found: &Tensor<2>,
) -> Result<Vec<f64>, TrainerError> {
    let [_, width] = wanted.dims();
    let mut fidelity = Fidelity::new(answers);
    fidelity.add(&read(wanted.clone()), &read(found.clone()), width)?;
    Ok(fidelity.divergence_of_images().to_vec())
}

/// Passes in which nothing is answered early. None where there was no time for one.
fn look(
    frozen: &FrozenModel<'_>,
    policy: &AnyPolicy,
    rng: &mut ChaCha8Rng,
    mut go_on: impl FnMut(f64) -> bool,
) -> Result<Option<Seen>, TrainerError> {
    let exits = policy.exits().ok_or_else(no_exits)?;
    let config = frozen.model.config();
    let answers_are = Answers::of(config);
    let (vit, places) = (&frozen.packed.vit, Heads::of(&frozen.packed.vit).tokens());
    let mut tokens: Vec<Vec<Vec<Tensor<2>>>> = vec![vec![Vec::new(); places]; exits.blocks().len()];
    let (mut seen_images, mut answers, mut all_moved) = (Vec::new(), Vec::new(), Vec::new());
    let batches = PASSES * frozen.images.len().div_ceil(BATCH);
    let mut done = 0;
    'looking: for _ in 0..PASSES {
        let mut order: Vec<usize> = (0..frozen.images.len()).collect();
        order.shuffle(rng);
        let images = frozen.images.subset(&order);
        let evaluation = frozen.evaluation;
        let (model, workers) = (frozen.model, evaluation.workers);
        let loader = loader(&images, model, evaluation, BATCH, workers, frozen.device);
        for batch in loader.iter() {
            let batch = batch.map_err(|error| TrainerError::Pruning(error.to_string()))?;
            let dense = vit.forward(batch.images.clone(), RunSettings::DENSE).logits;
            check_finite(dense.clone(), &batch.indices, &images)?;
            let selection = match policy.agents() {
                Some(_) => practised(policy, config, frozen.targets, rng)?,
                None => Selection::All,
            };
            let watch = Watch {
                reducer: policy.reducer(&selection, &[]),
                exits,
                places,
                seen: RefCell::default(),
            };
            let settings = RunSettings {
                mode: ExecutionMode::Drop,
                reducer: Some(&watch),
            };
            let pruned = vit.forward(batch.images.clone(), settings).logits;
            all_moved.extend(moved(answers_are, &dense, &pruned)?);
            answers.push(dense);
            seen_images.extend(batch.indices.iter().map(|&index| order[index]));
            for (all, seen) in tokens.iter_mut().zip(watch.seen.into_inner()) {
                all.iter_mut()
                    .zip(seen)
                    .for_each(|(all, seen)| all.push(seen));
            }
            done += 1;
            if !go_on(done as f64 / batches as f64) {
                break 'looking;
            }
        }
    }
    let joined = |parts: Vec<Tensor<2>>| Tensor::cat(parts, 0);
    Ok((!all_moved.is_empty()).then(|| Seen {
        images: seen_images,
        tokens: tokens
            .into_iter()
            .map(|places| places.into_iter().map(joined).collect())
            .collect(),
        answers: joined(answers),
        moved: all_moved,
    }))
}

/// A reducer that is watched in the blocks of exits.
struct Watch<'a> {
    reducer: Box<dyn TokenReducer + Sync + 'a>,
    exits: &'a Exits,
    places: usize,
    /// Per exit so far, the first tokens of the images, in their order.
    seen: RefCell<Vec<Vec<Tensor<2>>>>,
}

impl TokenReducer for Watch<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        let exit = self.exits.blocks().contains(&layer);
        let exit = exit.then_some(Placement::AfterAttention);
        exit.or_else(|| self.reducer.placement(layer))
    }

    fn needs(&self, layer: usize) -> Needs {
        match self.reducer.placement(layer) {
            Some(_) => self.reducer.needs(layer),
            None => Needs::default(),
        }
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let (layer, sequences) = (observation.layer, observation.sequences);
        if self.exits.blocks().contains(&layer) {
            let mut slots: Vec<i32> = (0..sequences.batch() as i32).collect();
            slots.sort_by_key(|&slot| sequences.image(slot as usize));
            let device = observation.hidden.device();
            let slots = Tensor::<1, Int>::from_data(slots.as_slice(), &device);
            let tokens = first_tokens(observation, self.places).into_iter();
            let tokens = tokens.map(|tokens| tokens.select(0, slots.clone()));
            self.seen.borrow_mut().push(tokens.collect());
        }
        match self.reducer.placement(layer) {
            Some(_) => self.reducer.reduce(observation),
            None => Reduction::none(sequences),
        }
    }
}

fn no_exits() -> TrainerError {
    TrainerError::Pruning("the policy has no exits that could learn".into())
}
