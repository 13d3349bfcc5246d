use serde::{Deserialize, Serialize};

/// The policy that removes nothing: the baseline, at the budget 1.
pub const DENSE: &str = "dense";

/// One policy, trained to one budget with one seed, on the test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Its name; [`DENSE`] is the baseline.
    pub policy: String,
    /// The share of the dense model's FLOPs that was asked for; 1 for the baseline.
    pub target_flops: f64,
    /// The seed of its training.
    pub seed: u64,
    /// Share of the test images that is classified right, with tokens removed.
    pub accuracy: f64,
    /// Counted FLOPs, agents included, as a share of the dense model's.
    pub flops_share: f64,
    /// Timed with tokens removed.
    pub images_per_s: f64,
    /// Timed dense, in turns with the above.
    pub dense_images_per_s: f64,
    /// Share that the same weights classify right when run dense.
    pub dense_accuracy: f64,
    /// Images that training has put through the model.
    pub image_passes: u64,
    /// How long it trained.
    pub train_seconds: f64,
    /// Images of the test set.
    pub test_images: usize,
    /// Tokens that each agent layer left, CLS counted; mean over images.
    pub tokens_per_layer: Vec<f64>,
    /// Share of the kept patches that are foreground, where the truth is known.
    pub foreground_precision: Option<f64>,
    /// Share of the foreground patches that are kept, where the truth is known.
    pub foreground_recall: Option<f64>,
    /// Whether each test image was classified right, with tokens removed.
    #[serde(with = "packed")]
    pub correct: Vec<bool>,
    /// Whether each was when run dense.
    #[serde(with = "packed")]
    pub dense_correct: Vec<bool>,
}

impl Cell {
    /// Whether it is of the baseline.
    pub fn is_dense(&self) -> bool {
        self.policy == DENSE
    }

    /// Timed: images a second, relative to the same weights run dense.
    pub fn speed_up(&self) -> f64 {
        self.images_per_s / self.dense_images_per_s
    }

    /// Speed-up times FLOPs share: 1 where all that was saved on paper was saved on the clock.
    pub fn realized(&self) -> f64 {
        self.speed_up() * self.flops_share
    }

    /// What cannot be true of it, if anything: field, found, expected.
    pub(super) fn problem(&self) -> Option<String> {
        let wrong = |field: &str, found: f64, expected: &str| {
            Some(format!("{field} = {found}: expected {expected}"))
        };
        if !is_file_name(&self.policy) {
            return Some(format!(
                "policy = {:?}: expected letters, digits, '-', '_', '+' and '.', and no '.' first",
                self.policy
            ));
        }
        let shares = [
            ("accuracy", Some(self.accuracy)),
            ("dense_accuracy", Some(self.dense_accuracy)),
            ("foreground_precision", self.foreground_precision),
            ("foreground_recall", self.foreground_recall),
        ];
        for (field, share) in shares {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                return wrong(field, share, "a share from 0 to 1");
            }
        }
        let positive = [
            ("target_flops", self.target_flops),
            ("flops_share", self.flops_share),
            ("images_per_s", self.images_per_s),
            ("dense_images_per_s", self.dense_images_per_s),
        ];
        for (field, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return wrong(field, value, "a number above 0");
            }
        }
        if !(self.train_seconds >= 0.0 && self.train_seconds.is_finite()) {
            return wrong("train_seconds", self.train_seconds, "0 or more");
        }
        if let Some(&tokens) = self.tokens_per_layer.iter().find(|t| !t.is_finite()) {
            return wrong("tokens_per_layer", tokens, "numbers");
        }
        let each = [
            ("correct", &self.correct, "accuracy", self.accuracy),
            (
                "dense_correct",
                &self.dense_correct,
                "dense_accuracy",
                self.dense_accuracy,
            ),
        ];
        for (field, correct, name, accuracy) in each {
            if correct.len() != self.test_images || correct.is_empty() {
                return Some(format!(
                    "{field} is of {} images: expected test_images = {} of them, and some",
                    correct.len(),
                    self.test_images
                ));
            }
            let right = correct.iter().filter(|&&right| right).count();
            let share = right as f64 / correct.len() as f64;
            if (share - accuracy).abs() > 1e-6 {
                return wrong(name, accuracy, &format!("{share}, as {field} says"));
            }
        }
        None
    }
}

/// Whether a policy's name can be part of a file's on any system.
fn is_file_name(policy: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
    !policy.is_empty() && !policy.starts_with('.') && policy.chars().all(allowed)
}

/// The cells of a policy at a budget: its seeds.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// The budget.
    pub target_flops: f64,
    /// One a seed.
    pub cells: Vec<&'a Cell>,
}

impl Group<'_> {
    /// A number of each cell.
    pub fn values(&self, value: impl Fn(&Cell) -> f64) -> Vec<f64> {
        self.cells.iter().map(|cell| value(cell)).collect()
    }
}

/// Cells by policy and budget: the baseline first, then policies in the order of their first
/// cells, each from its highest budget to its lowest.
pub fn groups(cells: &[Cell]) -> Vec<Group<'_>> {
    let mut policies: Vec<&str> = Vec::new();
    for cell in cells {
        if !policies.contains(&cell.policy.as_str()) {
            policies.push(&cell.policy);
        }
    }
    policies.sort_by_key(|&policy| policy != DENSE);
    let mut groups = Vec::new();
    for policy in policies {
        let mut own: Vec<&Cell> = cells.iter().filter(|cell| cell.policy == policy).collect();
        own.sort_by(|a, b| {
            let by_budget = b.target_flops.total_cmp(&a.target_flops);
            by_budget.then(a.seed.cmp(&b.seed))
        });
        for budget in own.chunk_by(|a, b| a.target_flops == b.target_flops) {
            groups.push(Group {
                policy,
                target_flops: budget[0].target_flops,
                cells: budget.to_vec(),
            });
        }
    }
    groups
}

/// One character an image: 1 where it was classified right.
mod packed {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(correct: &[bool], serializer: S) -> Result<S::Ok, S::Error> {
        let digit = |&right: &bool| if right { '1' } else { '0' };
        serializer.serialize_str(&correct.iter().map(digit).collect::<String>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<bool>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.chars().enumerate().map(|(image, digit)| match digit {
            '0' => Ok(false),
            '1' => Ok(true),
            other => Err(Error::custom(format!(
                "image {image} is {other:?} where 0 or 1 was expected"
            ))),
        });
        digits.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic;
    use super::*;

    #[test]
    fn a_cell_survives_json_with_one_character_an_image() {
        let cell = synthetic::cell("top-k", 0.7, 3, 40);
        let text = serde_json::to_string(&cell).unwrap();
        let digits: String = cell
            .correct
            .iter()
            .map(|&right| if right { '1' } else { '0' })
            .collect();
        assert!(
            text.contains(&format!("\"correct\":\"{digits}\"")),
            "{text}"
        );
        let back: Cell = serde_json::from_str(&text).unwrap();
        assert_eq!(back.correct, cell.correct);
        assert_eq!(back.target_flops, cell.target_flops);
        assert_eq!(back.problem(), None);
    }

    #[test]
    fn realized_is_one_where_time_falls_as_flops_do() {
        let mut cell = synthetic::cell("top-k", 0.5, 0, 40);
        (cell.flops_share, cell.images_per_s, cell.dense_images_per_s) = (0.5, 200.0, 100.0);
        assert_eq!((cell.speed_up(), cell.realized()), (2.0, 1.0));
    }

    #[test]
    fn what_cannot_be_is_named_by_its_field() {
        let good = synthetic::cell("top-k", 0.5, 0, 40);
        assert_eq!(good.problem(), None);
        type Spoiled = (&'static str, fn(&mut Cell));
        let spoil: [Spoiled; 7] = [
            ("policy", |cell| cell.policy = "../x".into()),
            ("accuracy", |cell| cell.accuracy = 1.5),
            ("dense_accuracy", |cell| cell.dense_accuracy -= 0.1),
            ("images_per_s", |cell| cell.images_per_s = f64::NAN),
            ("flops_share", |cell| cell.flops_share = 0.0),
            ("correct", |cell| cell.correct.truncate(3)),
            ("train_seconds", |cell| cell.train_seconds = -1.0),
        ];
        for (field, spoil) in spoil {
            let mut cell = good.clone();
            spoil(&mut cell);
            let problem = cell.problem().unwrap();
            assert!(problem.starts_with(field), "{field}: {problem}");
        }
    }

    #[test]
    fn groups_start_with_the_baseline_and_hold_all_seeds() {
        let cells = [
            synthetic::cell("b", 0.5, 1, 8),
            synthetic::cell("a", 0.7, 0, 8),
            synthetic::cell("b", 0.7, 0, 8),
            synthetic::cell("b", 0.5, 0, 8),
            synthetic::cell(DENSE, 1.0, 0, 8),
        ];
        let found: Vec<_> = groups(&cells)
            .iter()
            .map(|group| (group.policy, group.target_flops, group.cells.len()))
            .collect();
        let expected = [(DENSE, 1.0, 1), ("b", 0.7, 1), ("b", 0.5, 2), ("a", 0.7, 1)];
        assert_eq!(found, expected);
    }
}
