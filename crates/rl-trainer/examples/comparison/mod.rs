//! What policies did to the same images, and how sure a difference is.

use apt_data::ImageDataset;
use apt_inference::Fidelity;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Per image: KL(dense || pruned) in nats, and how often the answer is the dense one.
pub type Outcome = Vec<(f64, f64)>;

/// What an evaluation found.
pub fn outcome_of(fidelity: &Fidelity) -> Outcome {
    let equal = fidelity.equal_of_images().iter();
    let equal = equal.map(|&equal| f64::from(u8::from(equal)));
    let kl = fidelity.divergence_of_images().iter().copied();
    kl.zip(equal).collect()
}

/// In a random order, always the same.
pub fn shuffled(images: &ImageDataset) -> ImageDataset {
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
    images.subset(&order)
}

/// The means of both.
pub fn means(outcome: &Outcome) -> [f64; 2] {
    let count = outcome.len() as f64;
    let sum = |of: fn(&(f64, f64)) -> f64| outcome.iter().map(of).sum::<f64>();
    [sum(|image| image.0) / count, sum(|image| image.1) / count]
}

/// Where 95 of 100 differences of the means lie when images are drawn again, with replacement: low, then high, of both.
pub fn interval(ours: &Outcome, theirs: &Outcome) -> [[f64; 2]; 2] {
    let of = |part: fn(&(f64, f64)) -> f64| {
        let parts = |outcome: &Outcome| -> Vec<f64> { outcome.iter().map(part).collect() };
        interval_of(&parts(ours), &parts(theirs))
    };
    let [kl, equal] = [of(|image| image.0), of(|image| image.1)];
    [0, 1].map(|end| [kl[end], equal[end]])
}

/// The same of one value for each image.
pub fn interval_of(ours: &[f64], theirs: &[f64]) -> [f64; 2] {
    const DRAWS: usize = 2000;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let count = ours.len().min(theirs.len());
    let mut drawn = || {
        let images = (0..count).map(|_| rng.random_range(0..count));
        let differences = images.map(|image| ours[image] - theirs[image]);
        differences.sum::<f64>() / count as f64
    };
    let mut means: Vec<f64> = (0..DRAWS).map(|_| drawn()).collect();
    means.sort_by(f64::total_cmp);
    [0.025, 0.975].map(|share| means[(DRAWS as f64 * share) as usize])
}
