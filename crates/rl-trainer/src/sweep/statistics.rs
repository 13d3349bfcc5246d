use std::collections::{BTreeMap, HashMap};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Binomial, Distribution};
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::cell::Cell;

const RESAMPLES: usize = 10_000;
/// The bootstrap's own seed: the same cells give the same interval.
const SEED: u64 = 20_25;

/// A mean over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// The 95% t-interval is the mean plus and minus this; none for fewer than two values.
    pub half_width: Option<f64>,
    /// How many values it is of.
    pub count: usize,
}

/// The mean of independent values, with its 95% t-interval (Student's t with `count - 1` degrees
/// of freedom; it takes the values to be normally distributed, and is wide for few: with three, 2.5
/// standard deviations to each side).
pub fn mean(values: &[f64]) -> Mean {
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count as f64;
    let freedom = count as f64 - 1.0;
    let half_width = StudentsT::new(0.0, 1.0, freedom).ok().map(|t| {
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        t.inverse_cdf(0.975) * (squares / freedom / count as f64).sqrt()
    });
    Mean {
        mean,
        half_width,
        count,
    }
}

/// How much more accurate one policy is than another, as a share of the images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Accuracy of the first less that of the second; mean over seeds.
    pub difference: f64,
    /// Lower end of the 95% interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Seeds that both have.
    pub seeds: usize,
    /// Test images.
    pub images: usize,
}

impl Comparison {
    /// Whether the interval excludes no difference.
    pub fn is_clear(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// Compares the accuracies of two policies at a budget, image by image and seed by seed.
///
/// Only seeds that both have are used. For each seed and test image the difference is 1 where only
/// `a` is right, -1 where only `b` is, else 0. A bootstrap of 10,000 resamples draws images with
/// replacement, the same for all seeds (the seeds share the test set), and, independently, seeds
/// with replacement (the two policies' runs of a seed stay together), and takes the mean
/// difference; the interval is from the 2.5th to the 97.5th percentile. Its random numbers are
/// its own: the same cells give the same interval, and swapped ones the same with signs changed.
///
/// Its limits: resampled seeds vary less than new ones would, by (n - 1) / n in variance, and
/// three seeds have only ten resamples, so that what a seed does to all images alike is
/// understated with few seeds; with one seed the interval is about images alone. What is by chance
/// in one image with one seed is counted up to three times in variance (Owen, "The pigeonhole
/// bootstrap", 2007), so that where seeds hardly matter the interval is too wide rather than too
/// narrow. It is not corrected for how many comparisons are made, and says nothing of other data.
///
/// None where no seed is shared or the cells are not of equally many images.
pub fn compare(a: &[&Cell], b: &[&Cell]) -> Option<Comparison> {
    bootstrap(&paired(a, b, |cell| &cell.correct), RESAMPLES, SEED)
}

/// The same for the accuracies of the trained weights when run dense.
pub fn compare_dense(a: &[&Cell], b: &[&Cell]) -> Option<Comparison> {
    bootstrap(&paired(a, b, |cell| &cell.dense_correct), RESAMPLES, SEED)
}

type Pair<'a> = (&'a [bool], &'a [bool]);

/// Each shared seed's images under both.
fn paired<'a>(
    a: &[&'a Cell],
    b: &[&'a Cell],
    images: impl Fn(&'a Cell) -> &'a [bool],
) -> Vec<Pair<'a>> {
    let by_seed = |cells: &[&'a Cell]| -> BTreeMap<u64, &'a [bool]> {
        cells.iter().map(|cell| (cell.seed, images(cell))).collect()
    };
    let (a, b) = (by_seed(a), by_seed(b));
    let both = a.iter().filter_map(|(seed, &a)| Some((a, *b.get(seed)?)));
    both.collect()
}

/// Images that differ in the same way in every seed.
struct Pattern {
    /// By seed: 1 where only the first is right, -1 where only the second.
    differences: Vec<i64>,
    images: u64,
}

/// Patterns in the order of their first images, so that swapped policies have the same order.
fn patterns(pairs: &[Pair<'_>], images: usize) -> Vec<Pattern> {
    let mut patterns: Vec<Pattern> = Vec::new();
    let mut known: HashMap<Vec<i64>, usize> = HashMap::new();
    for image in 0..images {
        let difference = |(a, b): &Pair<'_>| i64::from(a[image]) - i64::from(b[image]);
        let differences: Vec<i64> = pairs.iter().map(difference).collect();
        if differences.iter().all(|&difference| difference == 0) {
            continue;
        }
        let index = *known.entry(differences.clone()).or_insert_with(|| {
            patterns.push(Pattern {
                differences,
                images: 0,
            });
            patterns.len() - 1
        });
        patterns[index].images += 1;
    }
    patterns
}

/// Drawing `images` images with replacement takes from the patterns as a multinomial does, which is
/// drawn as one binomial a pattern. Images without a difference come last and add nothing.
fn bootstrap(pairs: &[Pair<'_>], resamples: usize, seed: u64) -> Option<Comparison> {
    let images = pairs.first()?.0.len();
    let equal = |(a, b): &Pair<'_>| a.len() == images && b.len() == images;
    if images == 0 || !pairs.iter().all(equal) {
        return None;
    }
    let seeds = pairs.len();
    let patterns = patterns(pairs, images);
    let whole = (images * seeds) as f64;
    let sum: i64 = patterns
        .iter()
        .map(|pattern| pattern.images as i64 * pattern.differences.iter().sum::<i64>())
        .sum();

    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sums = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        let mut times = vec![0i64; seeds];
        for _ in 0..seeds {
            times[rng.random_range(0..seeds)] += 1;
        }
        let (mut to_draw, mut left) = (images as u64, images as u64);
        let mut sum = 0;
        for Pattern {
            differences,
            images,
        } in &patterns
        {
            let chance = *images as f64 / left as f64;
            let drawn = Binomial::new(to_draw, chance).ok()?.sample(&mut rng);
            let weighted = differences.iter().zip(&times).map(|(d, times)| d * times);
            sum += drawn as i64 * weighted.sum::<i64>();
            to_draw -= drawn;
            left -= images;
        }
        sums.push(sum);
    }
    sums.sort_unstable();
    let tail = resamples / 40;
    Some(Comparison {
        difference: sum as f64 / whole,
        low: sums[tail] as f64 / whole,
        high: sums[resamples - 1 - tail] as f64 / whole,
        seeds,
        images,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::synthetic;
    use super::*;

    #[test]
    fn the_t_interval_of_three_values_is_the_textbook_one() {
        let found = mean(&[1.0, 2.0, 3.0]);
        // t(0.975, 2) = 4.302653, standard error 1 / sqrt(3).
        assert!((found.mean, found.count) == (2.0, 3));
        assert!((found.half_width.unwrap() - 4.302_652_7 / 3f64.sqrt()).abs() < 1e-6);
        assert_eq!(mean(&[0.5]).half_width, None);
        assert_eq!(mean(&[0.5, 0.5]).half_width, Some(0.0));
    }

    #[test]
    fn seeds_are_paired_by_number_and_others_left_out() {
        let cell = |policy, seed| synthetic::cell(policy, 0.5, seed, 50);
        let (a, b) = ([cell("a", 0), cell("a", 1)], [cell("b", 1), cell("b", 2)]);
        let (a, b): (Vec<&Cell>, Vec<&Cell>) = (a.iter().collect(), b.iter().collect());
        let found = compare(&a, &b).unwrap();
        assert_eq!((found.seeds, found.images), (1, 50));
        assert!((found.difference - (a[1].accuracy - b[0].accuracy)).abs() < 1e-12);
        let dense = compare_dense(&a, &b).unwrap();
        let expected = a[1].dense_accuracy - b[0].dense_accuracy;
        assert!((dense.difference - expected).abs() < 1e-12);
        assert_eq!(compare(&a[..1], &b), None);
        let other = synthetic::cell("b", 0.5, 1, 51);
        assert_eq!(compare(&a, &[&other]), None);
    }

    /// Runs of two policies: each image has its own difficulty, each seed its own effect.
    fn runs(
        rng: &mut ChaCha8Rng,
        seeds: usize,
        images: usize,
        gain: f64,
        spread: f64,
    ) -> Vec<(Vec<bool>, Vec<bool>)> {
        let difficulty: Vec<f64> = (0..images)
            .map(|_| 0.5 + 0.4 * rng.random::<f64>())
            .collect();
        let mut run = |gain: f64| -> Vec<bool> {
            let right = difficulty.iter().map(|&p| rng.random::<f64>() < p + gain);
            right.collect()
        };
        let mut pairs = Vec::new();
        for _ in 0..seeds {
            // Two draws: symmetric about the gain.
            let effect = gain + spread * (fraction(&run(0.0)) - fraction(&run(0.0)));
            pairs.push((run(effect), run(0.0)));
        }
        pairs
    }

    fn fraction(right: &[bool]) -> f64 {
        right.iter().filter(|&&right| right).count() as f64 / right.len() as f64
    }

    fn borrowed(runs: &[(Vec<bool>, Vec<bool>)]) -> Vec<Pair<'_>> {
        runs.iter().map(|(a, b)| (&a[..], &b[..])).collect()
    }

    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for (seeds, spread) in [(1, 0.0), (3, 0.0), (8, 0.5)] {
            let trials = 200;
            let mut held = 0;
            for trial in 0..trials {
                let runs = runs(&mut rng, seeds, 400, 0.03, spread);
                let found = bootstrap(&borrowed(&runs), 800, trial).unwrap();
                held += usize::from((found.low..=found.high).contains(&0.03));
            }
            let coverage = held as f64 / trials as f64;
            println!("{seeds} seeds: {coverage}");
            assert!(coverage > 0.88, "{seeds} seeds: {coverage}");
        }
    }

    #[test]
    fn a_large_difference_is_clear() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let runs = runs(&mut rng, 3, 2000, 0.08, 0.0);
        let found = bootstrap(&borrowed(&runs), 2000, 1).unwrap();
        assert!(
            found.is_clear() && found.low > 0.04 && found.high < 0.12,
            "{found:?}"
        );
    }

    #[test]
    fn multinomial_resamples_spread_as_drawn_images_do() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let runs = runs(&mut rng, 1, 500, 0.05, 0.0);
        let found = bootstrap(&borrowed(&runs), 20_000, 1).unwrap();
        // With one seed: the mean of independent images, near to normal.
        let (a, b) = &runs[0];
        let each: Vec<f64> = a
            .iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) - f64::from(b))
            .collect();
        let variance = each
            .iter()
            .map(|d| (d - found.difference).powi(2))
            .sum::<f64>()
            / 500.0;
        let expected = 2.0 * 1.96 * (variance / 500.0).sqrt();
        assert!(((found.high - found.low) / expected - 1.0).abs() < 0.06);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_policy_does_not_differ_from_itself(
            runs in vec(vec(any::<bool>(), 40), 1..5),
        ) {
            let pairs: Vec<Pair<'_>> = runs.iter().map(|run| (&run[..], &run[..])).collect();
            let found = bootstrap(&pairs, 400, 3).unwrap();
            prop_assert_eq!((found.difference, found.low, found.high), (0.0, 0.0, 0.0));
        }

        #[test]
        fn swapping_changes_signs_and_nothing_else(
            runs in vec((vec(any::<bool>(), 40), vec(any::<bool>(), 40)), 1..5),
        ) {
            let pairs = borrowed(&runs);
            let swapped: Vec<Pair<'_>> = pairs.iter().map(|&(a, b)| (b, a)).collect();
            let found = bootstrap(&pairs, 400, 3).unwrap();
            let back = bootstrap(&swapped, 400, 3).unwrap();
            prop_assert_eq!(found.difference, -back.difference);
            prop_assert_eq!((found.low, found.high), (-back.high, -back.low));
            prop_assert!(found.low <= found.high);
        }
    }
}
