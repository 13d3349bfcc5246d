//! How the agent learns when a memory helps.
//!
//! - **Observation**: what the model answers to a labelled image, and what the image's neighbours say.
//! - **Action**: ask or not; and if so, the memory's share of the answer.
//! - **Reward**: the probability of the right class, minus a price for asking.
//!
//! Both actions' rewards are known, so that their expectation is exact and its gradient needs no sampling. In half of the
//! episodes, some classes are hidden from the model, whose logits lack them, and the memory has only a few images of each
//! of them, some with a wrong label: so the agent meets new classes before there are any.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::rc::Rc;

use apt_inference::probabilities;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::Judge;
use crate::judge::{BOTH, OWN, log_odds, seen_of_own, sigmoid};
use crate::vote::{Vote, evened};

/// A labelled image to learn from.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// The model's logits; none of a model without classes.
    pub logits: Vec<f32>,
    /// The right class, a place among the names.
    pub class: usize,
    /// The most similar entries, the most similar first; 300 of them, if there are so many.
    pub neighbors: Vec<Heard>,
}

/// An entry near an image to learn from.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// The entry's number, which is its own.
    pub entry: u64,
    /// Its class, a place among the names.
    pub class: usize,
    /// The cosine.
    pub similarity: f32,
}

/// So many neighbours of each image are looked at: most of them may be hidden.
pub const NEIGHBORS: usize = 300;

/// What a pass of the dense model would cost, in probability of a right answer.
const PRICE: f64 = 0.1;
/// The share of the classes that is hidden where some are.
const HIDDEN: f64 = 0.3;
/// So many images of a hidden class are in the memory,
const FEW: RangeInclusive<usize> = 20..=100;
/// and this share of them has a wrong label.
const WRONG: f64 = 0.2;
/// Episodes of each image: in every second one nothing is hidden.
const EPISODES: usize = 8;
/// What is tried: so many neighbours,
const NEIGHBORS_TRIED: [usize; 3] = [10, 20, 50];
/// and these temperatures.
const TEMPERATURES: [f32; 2] = [0.1, 0.3];
/// and this much making up for classes with few entries.
const BALANCES: [f32; 3] = [0.0, 0.5, 1.0];
/// Steps up the reward.
const STEPS: usize = 200;
const LEARNING_RATE: f32 = 0.05;

/// One image in one episode.
struct Episode {
    own: Vec<f32>,
    /// The class names' places, and cosines.
    voices: Vec<(usize, f32)>,
    class: usize,
    /// How many entries each class has in the episode.
    counts: Rc<Vec<usize>>,
}

/// Teaches an agent. `classes` are all class names, the model's first, in the order of its logits; each with how many entries
/// the memory has of it. `search` is the share of a dense pass that a search costs.
pub fn learn(lessons: &[Lesson], classes: &[(String, usize)], search: f64, seed: u64) -> Judge {
    let usual = usual(lessons);
    let (classes, images_of): (Vec<String>, Vec<usize>) = classes.iter().cloned().unzip();
    let classes = &classes;
    let episodes = episodes(lessons, &images_of, seed);
    if episodes.is_empty() {
        return Judge {
            usual,
            ..Judge::default()
        };
    }
    let mut best: Option<(f32, Judge)> = None;
    for neighbors in NEIGHBORS_TRIED {
        for (temperature, balance) in TEMPERATURES.into_iter().flat_map(with_each_balance) {
            let judge = Judge {
                neighbors,
                temperature,
                balance,
                usual,
                ..Judge::default()
            };
            let (reward, judge) = taught(judge, &episodes, classes, PRICE * search);
            if best.as_ref().is_none_or(|best| reward > best.0) {
                best = Some((reward, judge));
            }
        }
    }
    best.map_or_else(Judge::default, |best| best.1)
}

fn with_each_balance(temperature: f32) -> [(f32, f32); BALANCES.len()] {
    BALANCES.map(|balance| (temperature, balance))
}

/// The mean and the deviation of the cosine of each image's nearest neighbour.
fn usual(lessons: &[Lesson]) -> [f32; 2] {
    let nearest = lessons.iter().filter_map(|lesson| lesson.neighbors.first());
    let nearest: Vec<f32> = nearest.map(|neighbor| neighbor.similarity).collect();
    let count = nearest.len().max(1) as f32;
    let mean = nearest.iter().sum::<f32>() / count;
    let variance = nearest.iter().map(|cosine| (cosine - mean).powi(2));
    [mean, (variance.sum::<f32>() / count).sqrt().max(1e-3)]
}

fn episodes(lessons: &[Lesson], images_of: &[usize], seed: u64) -> Vec<Episode> {
    let known = lessons.first().map_or(0, |lesson| lesson.logits.len());
    // Only classes that have images can be hidden.
    let shown: Vec<usize> = (0..known).filter(|&class| images_of[class] > 0).collect();
    let most = shown.len().saturating_sub(2);
    let mut found = Vec::new();
    for number in 0..EPISODES {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(number as u64));
        let mut order = shown.clone();
        order.shuffle(&mut rng);
        let hides = number % 2 == 1 && most > 0;
        let count = if hides {
            ((HIDDEN * shown.len() as f64).round() as usize).clamp(1, most)
        } else {
            0
        };
        let hidden: BTreeSet<usize> = order[..count].iter().copied().collect();
        let few = rng.random_range(FEW) as f64;
        let of_episode: u64 = rng.random();
        let left = |(class, &count): (usize, &usize)| {
            if hidden.contains(&class) {
                count.min(few as usize)
            } else {
                count
            }
        };
        let counts = Rc::new(images_of.iter().enumerate().map(left).collect::<Vec<_>>());
        found.extend(lessons.iter().map(|lesson| {
            let voice = |heard: &Heard| {
                let (class, cosine) = (heard.class, heard.similarity);
                if !hidden.contains(&class) {
                    return Some((class, cosine));
                }
                // The same entries are there, with the same labels, for all images of the episode.
                let mut rng = ChaCha8Rng::seed_from_u64(of_episode ^ heard.entry);
                let is_there = rng.random_bool((few / images_of[class] as f64).min(1.0));
                let is_wrong = rng.random_bool(WRONG);
                let other = rng.random_range(0..shown.len());
                is_there.then(|| (if is_wrong { shown[other] } else { class }, cosine))
            };
            let own = if lesson.logits.is_empty() {
                Vec::new()
            } else {
                let mut logits = lesson.logits.clone();
                for &class in &hidden {
                    logits[class] = f32::NEG_INFINITY;
                }
                probabilities(&logits)
            };
            Episode {
                own,
                voices: lesson.neighbors.iter().filter_map(voice).collect(),
                class: lesson.class,
                counts: Rc::clone(&counts),
            }
        }));
    }
    found
}

/// What the agent sees in an episode, and what each answer is worth.
struct Scene {
    own: [f32; OWN],
    both: [f32; BOTH],
    by_model: f32,
    by_memory: f32,
}

/// The agent after it learned, and the mean reward that it then gets.
fn taught(mut judge: Judge, episodes: &[Episode], classes: &[String], price: f64) -> (f32, Judge) {
    let scenes: Vec<Scene> = episodes
        .iter()
        .map(|episode| scene(&judge, episode, classes))
        .collect();
    let price = price as f32;
    let mut ask = Adam::<OWN>::default();
    let mut trust = Adam::<BOTH>::default();
    let mut reward = 0.0;
    for _ in 0..=STEPS {
        let (mut of_ask, mut of_trust) = ([0.0; OWN], [0.0; BOTH]);
        reward = 0.0;
        for scene in &scenes {
            let asks = sigmoid(log_odds(&judge.ask, &scene.own));
            let weight = sigmoid(log_odds(&judge.trust, &scene.both));
            let gain = scene.by_memory - scene.by_model;
            let asked = weight * gain - price;
            reward += scene.by_model + asks * asked;
            let slope = asks * (1.0 - asks) * asked;
            for (sum, seen) in of_ask.iter_mut().zip(scene.own) {
                *sum += slope * seen;
            }
            // What is seldom asked is learned of all the same.
            let slope = asks.max(0.1) * weight * (1.0 - weight) * gain;
            for (sum, seen) in of_trust.iter_mut().zip(scene.both) {
                *sum += slope * seen;
            }
        }
        let count = scenes.len() as f32;
        reward /= count;
        ask.step(&mut judge.ask, of_ask.map(|sum| sum / count));
        trust.step(&mut judge.trust, of_trust.map(|sum| sum / count));
    }
    (reward, judge)
}

fn scene(judge: &Judge, episode: &Episode, classes: &[String]) -> Scene {
    let voices = episode.voices.iter().take(judge.neighbors);
    let voices = voices.map(|&(class, cosine)| {
        let weight = evened(episode.counts[class], judge.balance);
        (classes[class].as_str(), cosine, weight)
    });
    let vote = Vote::of_voices(voices, judge.temperature);
    let own = &episode.own;
    let top = (0..own.len()).max_by(|&a, &b| own[a].total_cmp(&own[b]));
    let of_own = top.map_or(0.0, |top| vote.share(&classes[top]));
    let first = vote.shares.first();
    let first = first.and_then(|share| classes.iter().position(|class| *class == share.0));
    let of_vote = first
        .and_then(|class| own.get(class))
        .copied()
        .unwrap_or(0.0);
    Scene {
        own: seen_of_own(own),
        both: judge.seen_of_both(own, &vote, of_vote, of_own),
        by_model: own.get(episode.class).copied().unwrap_or(0.0),
        by_memory: vote.share(&classes[episode.class]),
    }
}

/// Adam (Kingma and Ba, 2015), uphill.
struct Adam<const N: usize> {
    mean: [f32; N],
    square: [f32; N],
    steps: i32,
}

impl<const N: usize> Default for Adam<N> {
    fn default() -> Self {
        Self {
            mean: [0.0; N],
            square: [0.0; N],
            steps: 0,
        }
    }
}

impl<const N: usize> Adam<N> {
    fn step(&mut self, weights: &mut [f32; N], gradient: [f32; N]) {
        self.steps += 1;
        let bias = |decay: f32| 1.0 - decay.powi(self.steps);
        let (of_mean, of_square) = (bias(0.9), bias(0.999));
        for (place, weight) in weights.iter_mut().enumerate() {
            let slope = gradient[place];
            self.mean[place] += 0.1 * (slope - self.mean[place]);
            self.square[place] += 0.001 * (slope * slope - self.square[place]);
            let deviation = (self.square[place] / of_square).sqrt() + 1e-8;
            *weight += LEARNING_RATE * (self.mean[place] / of_mean) / deviation;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes of three that the model knows well, and one that it takes for the first; neighbours are right.
    fn lessons(model_is_right: bool, memory_is_right: bool) -> Vec<Lesson> {
        let of = |image: usize| {
            let class = image % 3;
            let said = if model_is_right {
                class
            } else {
                (class + 1) % 3
            };
            let heard = if memory_is_right {
                class
            } else {
                (class + 1) % 3
            };
            let mut logits = vec![0.0; 3];
            logits[said] = 2.0;
            Lesson {
                logits,
                class,
                neighbors: (0..30)
                    .map(|entry| Heard {
                        entry,
                        class: heard,
                        similarity: 0.9 - entry as f32 / 1000.0,
                    })
                    .collect(),
            }
        };
        (0..60).map(of).collect()
    }

    fn weight(judge: &Judge, own: &[f32], class: &str) -> f32 {
        let vote = Vote::of_voices([(class, 0.9, 1.0); 5].into_iter(), judge.temperature);
        judge.weight(own, &vote, 0.1, 0.0)
    }

    #[test]
    fn what_was_right_is_believed() {
        let classes = ["a", "b", "c"].map(|class| (class.to_string(), 20));
        let own = [0.8, 0.1, 0.1];
        let good = learn(&lessons(false, true), &classes, 0.0, 0);
        assert!(good.asks(&own));
        assert!(weight(&good, &own, "b") > 0.9);
        let bad = learn(&lessons(true, false), &classes, 0.0, 0);
        assert!(weight(&bad, &own, "b") < 0.1);
    }

    #[test]
    fn where_the_memory_adds_nothing_a_price_keeps_it_unasked() {
        let classes = ["a", "b", "c"].map(|class| (class.to_string(), 20));
        let own = [0.8, 0.1, 0.1];
        let judge = learn(&lessons(true, true), &classes, 5.0, 0);
        assert!(!judge.asks(&own));
        let judge = learn(&lessons(true, true), &classes, 0.0, 0);
        assert!(judge.asks(&own));
    }

    #[test]
    fn the_same_seed_teaches_the_same() {
        let classes = ["a", "b", "c"].map(|class| (class.to_string(), 20));
        let lessons = lessons(true, true);
        assert_eq!(
            learn(&lessons, &classes, 0.0, 1),
            learn(&lessons, &classes, 0.0, 1)
        );
    }
}
