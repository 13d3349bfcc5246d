//! The agent: is the memory asked, and how far is it believed?

use serde::{Deserialize, Serialize};

use crate::vote::Vote;

/// What the agent sees of the model's own answer,
pub const OWN: usize = 5;
/// and what it sees of both.
pub const BOTH: usize = OWN + 7;

/// The largest log-odds that an observation shows.
const MOST_ODDS: f32 = 8.0;
/// The most deviations of a cosine from the usual one.
const MOST_DEVIATIONS: f32 = 4.0;

/// An agent with two decisions for each image. By the model's own answer it decides whether the memory is asked, which costs
/// a search. By that answer and the neighbours' it decides what share of the answer is theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    /// How many neighbours speak.
    pub neighbors: usize,
    /// How much more the nearer ones count: each by `exp(cosine / temperature)`.
    pub temperature: f32,
    /// How far classes with few entries are made up for: each neighbour counts `1 / entries of its class ^ balance`.
    pub balance: f32,
    /// The usual cosine of the nearest neighbour, and its standard deviation.
    pub usual: [f32; 2],
    /// Log-odds of asking, per observation of the model's own answer.
    pub ask: [f32; OWN],
    /// Log-odds of the memory's share, per observation of both answers.
    pub trust: [f32; BOTH],
}

impl Default for Judge {
    /// Asks always, and believes both alike.
    fn default() -> Self {
        let mut ask = [0.0; OWN];
        ask[0] = 1.0;
        Self {
            neighbors: 20,
            temperature: 0.1,
            balance: 1.0,
            usual: [0.8, 0.1],
            ask,
            trust: [0.0; BOTH],
        }
    }
}

impl Judge {
    /// Is the memory asked where the model answers with these probabilities? Always where it answers with none.
    pub fn asks(&self, own: &[f32]) -> bool {
        own.is_empty() || log_odds(&self.ask, &seen_of_own(own)) > 0.0
    }

    /// The memory's share of the answer, from 0 to 1; `of_vote` and `of_own` as in [`seen_of_both`](Self::seen_of_both).
    pub fn weight(&self, own: &[f32], vote: &Vote, of_vote: f32, of_own: f32) -> f32 {
        match (own.is_empty(), vote.shares.is_empty()) {
            (_, true) => 0.0,
            (true, false) => 1.0,
            (false, false) => {
                let seen = self.seen_of_both(own, vote, of_vote, of_own);
                sigmoid(log_odds(&self.trust, &seen))
            }
        }
    }

    /// What is seen of both answers: `of_vote` is the model's probability of the class that the vote puts first, `of_own` the
    /// vote's share of the class that the model puts first.
    pub fn seen_of_both(&self, own: &[f32], vote: &Vote, of_vote: f32, of_own: f32) -> [f32; BOTH] {
        let [mean, deviation] = self.usual;
        let unusual =
            |cosine: f32| ((cosine - mean) / deviation).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS);
        let [most, lead] = vote.lead();
        let own = seen_of_own(own);
        let both = [
            most,
            lead,
            unusual(vote.nearest),
            unusual(vote.mean),
            of_vote,
            of_own,
            most * unusual(vote.nearest),
        ];
        let mut seen = [0.0; BOTH];
        seen[..OWN].copy_from_slice(&own);
        seen[OWN..].copy_from_slice(&both);
        seen
    }

    /// What cannot be, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        let numbers = self.ask.iter().chain(&self.trust).chain(&self.usual);
        if self.neighbors == 0 {
            return Some("judge.neighbors = 0: expected 1 or more".into());
        }
        if !numbers
            .chain([&self.temperature, &self.balance])
            .all(|number| number.is_finite())
        {
            return Some("judge: expected finite numbers".into());
        }
        for (field, value) in [
            ("temperature", self.temperature),
            ("usual[1]", self.usual[1]),
        ] {
            if value <= 0.0 {
                return Some(format!(
                    "judge.{field} = {value}: expected a number above 0"
                ));
            }
        }
        None
    }
}

/// What is seen of probabilities: 1, the largest, how far the second is below it, the log-odds of the largest, and the
/// entropy as a share of the largest possible.
pub fn seen_of_own(own: &[f32]) -> [f32; OWN] {
    let (mut first, mut second, mut entropy) = (0.0_f32, 0.0_f32, 0.0_f32);
    for &probability in own {
        if probability > first {
            (first, second) = (probability, first);
        } else {
            second = second.max(probability);
        }
        if probability > 0.0 {
            entropy -= probability * probability.ln();
        }
    }
    let odds = (first / (1.0 - first).max(1e-6)).max(1e-6).ln();
    let most = (own.len().max(2) as f32).ln();
    [
        1.0,
        first,
        first - second,
        odds.clamp(-MOST_ODDS, MOST_ODDS) / MOST_ODDS,
        entropy / most,
    ]
}

pub fn log_odds(weights: &[f32], seen: &[f32]) -> f32 {
    weights
        .iter()
        .zip(seen)
        .map(|(weight, seen)| weight * seen)
        .sum()
}

pub fn sigmoid(log_odds: f32) -> f32 {
    1.0 / (1.0 + (-log_odds).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_classes_is_not_believed_and_a_memory_without_neighbours_neither() {
        let judge = Judge::default();
        let vote = Vote::of_voices([("cat", 0.5, 1.0)].into_iter(), 0.1);
        assert!(judge.asks(&[]));
        assert_eq!(judge.weight(&[], &vote, 0.0, 0.0), 1.0);
        assert_eq!(judge.weight(&[0.5, 0.5], &Vote::default(), 0.0, 0.0), 0.0);
        assert_eq!(judge.weight(&[0.5, 0.5], &vote, 0.0, 0.0), 0.5);
    }

    #[test]
    fn certainty_shows() {
        let [_, first, lead, odds, entropy] = seen_of_own(&[0.98, 0.01, 0.01]);
        let [
            _,
            first_of_three,
            lead_of_three,
            odds_of_three,
            entropy_of_three,
        ] = seen_of_own(&[0.4, 0.3, 0.3]);
        assert!(first > first_of_three && lead > lead_of_three && odds > odds_of_three);
        assert!(entropy < entropy_of_three && entropy_of_three <= 1.0);
    }

    #[test]
    fn numbers_that_cannot_work_are_named() {
        let faulty = |change: fn(&mut Judge)| {
            let mut judge = Judge::default();
            change(&mut judge);
            judge.fault()
        };
        assert_eq!(faulty(|_| ()), None);
        assert!(faulty(|judge| judge.neighbors = 0).is_some());
        assert!(faulty(|judge| judge.temperature = 0.0).is_some());
        assert!(faulty(|judge| judge.trust[3] = f32::NAN).is_some());
        assert!(faulty(|judge| judge.usual[1] = -1.0).is_some());
    }
}
