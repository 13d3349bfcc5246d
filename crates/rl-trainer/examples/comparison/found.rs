//! What a policy did, as a line to read and to compare.

use std::fmt;

use crate::comparison::{Outcome, interval, interval_of, means};

/// What a policy did at one budget to the images of one test.
#[derive(Clone)]
pub struct Found {
    pub share: f64,
    pub outcome: Outcome,
    /// Per image: how often the answer is right; empty without labels.
    pub correct: Vec<f64>,
    /// Foreground patches that are still there at the end, as a share, where the truth is known.
    pub foreground: Option<f64>,
    /// Recall and precision of corrupted patches, where there are such.
    pub corrupted: [Option<f64>; 2],
    /// Mean cosine of every patch's token to the dense model's.
    pub patches: f64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kl, equal] = means(&self.outcome);
        write!(f, "share {:.4}\tKL {kl:.4}\tequal {equal:.4}", self.share)?;
        write!(f, "\tpatches {:.3}", self.patches)?;
        if !self.correct.is_empty() {
            let accuracy = mean_value(&self.correct);
            write!(f, "\taccuracy {accuracy:.4}")?;
        }
        if let Some(kept) = self.foreground {
            write!(f, "\tforeground {kept:.3}")?;
        }
        if let [Some(recall), Some(precision)] = self.corrupted {
            write!(f, "\trecall {recall:.3}\tprecision {precision:.3}")?;
        }
        Ok(())
    }
}

/// The ratio of divergences, and where the differences lie.
pub fn difference(ours: &Found, theirs: &Found) -> String {
    let ratio = means(&ours.outcome)[0] / means(&theirs.outcome)[0];
    let [low, high] = interval(&ours.outcome, &theirs.outcome);
    let mut said = format!(
        "KL {ratio:.2} [{:+.4}, {:+.4}]\tequal [{:+.4}, {:+.4}]",
        low[0], high[0], low[1], high[1]
    );
    if !ours.correct.is_empty() && !theirs.correct.is_empty() {
        let [low, high] = interval_of(&ours.correct, &theirs.correct);
        let more = mean_value(&ours.correct) - mean_value(&theirs.correct);
        said += &format!("\taccuracy {more:+.4} [{low:+.4}, {high:+.4}]");
    }
    said
}

fn mean_value(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Per test and budget, the means over seeds, image by image.
pub fn mean(of_seeds: &[Vec<Vec<Found>>]) -> Vec<Vec<Found>> {
    let first = &of_seeds[0];
    let of_test = |test: usize| {
        let of_budget = |budget: usize| {
            let seeds: Vec<&Found> = of_seeds.iter().map(|found| &found[test][budget]).collect();
            mean_of(&seeds)
        };
        (0..first[test].len()).map(of_budget).collect()
    };
    (0..first.len()).map(of_test).collect()
}

fn mean_of(seeds: &[&Found]) -> Found {
    let count = seeds.len() as f64;
    let of = |value: &dyn Fn(&Found) -> Option<f64>| {
        let values: Option<f64> = seeds.iter().map(|found| value(found)).sum();
        values.map(|sum| sum / count)
    };
    let outcome = (0..seeds[0].outcome.len()).map(|image| {
        let values = seeds.iter().map(|found| found.outcome[image]);
        let sum = values.fold((0.0, 0.0), |sum, value| (sum.0 + value.0, sum.1 + value.1));
        (sum.0 / count, sum.1 / count)
    });
    let correct = (0..seeds[0].correct.len()).map(|image| {
        let values = seeds.iter().map(|found| found.correct[image]);
        values.sum::<f64>() / count
    });
    Found {
        share: seeds.iter().map(|found| found.share).sum::<f64>() / count,
        outcome: outcome.collect(),
        patches: of(&|found| Some(found.patches)).unwrap_or_default(),
        correct: correct.collect(),
        foreground: of(&|found| found.foreground),
        corrupted: [0, 1].map(|place| of(&|found| found.corrupted[place])),
    }
}
