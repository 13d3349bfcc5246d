//! The price at which gates compute a share of the FLOPs, and what that does to the answers.

use apt_pruning_agent::Gates;

use super::classroom::Classroom;
use super::exploration::Explored;

/// Logarithms of prices beyond which nobody looks.
const FURTHEST: f64 = 20.0;
/// Steps through that range.
const STEPS: usize = 80;
/// Halvings of a step.
const HALVINGS: usize = 24;
/// A share that is so near to the target meets it.
const MET: f64 = 0.005;

/// What gates do to explored images at a price.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocated {
    /// The price.
    pub price: f64,
    /// The schedule of each image.
    pub schedules: Vec<usize>,
    /// Mean share of the dense FLOPs.
    pub flops_share: f64,
    /// Mean KL(dense || pruned) in nats.
    pub kl: f64,
    /// Share of the images whose answer is the dense one.
    pub equal_answers: f64,
}

/// Lets the gates choose for every explored image at this price.
pub fn allocate_at(
    gates: &Gates,
    classroom: &Classroom,
    explored: &Explored,
    price: f64,
) -> Allocated {
    let tree = gates.tree();
    let foreseen = classroom.foreseen(gates, price);
    let mut schedules = vec![0; explored.images];
    for (point, foreseen) in foreseen.iter().enumerate() {
        let (below, nodes) = (tree.below(point), tree.nodes(point));
        let at: Vec<usize> = schedules.iter().map(|schedule| schedule / below).collect();
        let rows = at.iter().enumerate();
        let rows = rows.flat_map(|(image, node)| {
            let first = (image * nodes + node) * below;
            &foreseen[first..first + below]
        });
        let rows: Vec<f32> = rows.copied().collect();
        schedules = gates.cheapest(point, &at, &rows, price);
    }
    given(explored, gates.shares(), price, schedules)
}

/// What these schedules do.
fn given(explored: &Explored, shares: &[f64], price: f64, schedules: Vec<usize>) -> Allocated {
    let count = shares.len();
    let images = explored.images.max(1) as f64;
    let places = schedules.iter().enumerate();
    let places: Vec<usize> = places
        .map(|(image, schedule)| image * count + schedule)
        .collect();
    let flops = schedules.iter().map(|&schedule| shares[schedule]);
    let kl = places
        .iter()
        .map(|&place| f64::from(explored.distances[place]));
    let equal = places
        .iter()
        .filter(|&&place| explored.equal[place])
        .count();
    Allocated {
        price,
        flops_share: flops.sum::<f64>() / images,
        kl: kl.sum::<f64>() / images,
        equal_answers: equal as f64 / images,
        schedules,
    }
}

/// The price at which `at` computes `target` of the FLOPs, or as near to it as it comes. What gates compute need not fall with
/// the price everywhere: the range is looked through in steps, and each step that passes the target is halved. Of several such
/// prices, the one with the least divergence counts.
fn fitted(target: f64, at: impl Fn(f64) -> Allocated) -> Allocated {
    let place = |step: usize| FURTHEST * (2.0 * step as f64 / STEPS as f64 - 1.0);
    let steps: Vec<Allocated> = (0..=STEPS).map(|step| at(place(step).exp())).collect();
    let mut best = steps[0].clone();
    let miss = |found: &Allocated| (found.flops_share - target).abs();
    let keep = |best: &mut Allocated, found: &Allocated| {
        let is_better = if miss(found).max(miss(best)) <= MET {
            found.kl < best.kl
        } else {
            miss(found) < miss(best)
        };
        if is_better {
            best.clone_from(found);
        }
    };
    for (step, ends) in steps.windows(2).enumerate() {
        keep(&mut best, &ends[1]);
        let above = ends[0].flops_share > target;
        if above == (ends[1].flops_share > target) {
            continue;
        }
        let (mut low, mut high) = (place(step), place(step + 1));
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            let found = at(middle.exp());
            if (found.flops_share > target) == above {
                low = middle;
            } else {
                high = middle;
            }
            keep(&mut best, &found);
        }
    }
    best
}

/// The price at which the gates compute `target` of the FLOPs of the explored images in the mean.
pub fn fit_price(
    gates: &Gates,
    classroom: &Classroom,
    explored: &Explored,
    target: f64,
) -> Allocated {
    fitted(target, |price| {
        allocate_at(gates, classroom, explored, price)
    })
}

/// The least divergence that any choice of schedules has at this mean share: of each image that of least cost. No policy
/// knows it.
pub fn oracle(shares: &[f64], explored: &Explored, target: f64) -> Allocated {
    fitted(target, |price| {
        let rows = explored.distances.chunks_exact(shares.len());
        let best = rows.map(|row| {
            let cost = |schedule: &usize| f64::from(row[*schedule]) / price + shares[*schedule];
            let all = 0..shares.len();
            all.min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(0)
        });
        let best = best.collect();
        given(explored, shares, price, best)
    })
}

/// How often each schedule was chosen, as a share of the images.
pub fn frequencies(schedules: &[usize], count: usize) -> Vec<f64> {
    let mut frequencies = vec![0.0; count];
    for &schedule in schedules {
        frequencies[schedule] += 1.0 / schedules.len() as f64;
    }
    frequencies
}
