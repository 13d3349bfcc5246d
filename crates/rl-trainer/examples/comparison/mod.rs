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

/// Where 95 of 100 differences of the means lie when images are drawn again, with replacement.
pub fn interval(ours: &Outcome, theirs: &Outcome) -> [[f64; 2]; 2] {
    const DRAWS: usize = 2000;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let count = ours.len().min(theirs.len());
    let mut draws: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..DRAWS {
        let mut sums = [0.0; 2];
        for _ in 0..count {
            let image = rng.random_range(0..count);
            let ((kl, equal), (other, also)) = (ours[image], theirs[image]);
            sums[0] += kl - other;
            sums[1] += equal - also;
        }
        for (draws, sum) in draws.iter_mut().zip(sums) {
            draws.push(sum / count as f64);
        }
    }
    draws
        .iter_mut()
        .for_each(|draws| draws.sort_by(f64::total_cmp));
    let at = |share: f64| {
        let place = (DRAWS as f64 * share) as usize;
        [draws[0][place], draws[1][place]]
    };
    [at(0.025), at(0.975)]
}
