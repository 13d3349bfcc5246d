//! The numbers of a training under way, and how far it is: what every renderer shows.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use burn::train::renderer::MetricState;

/// The newest number of each metric. One that is no number is not kept.
#[derive(Default)]
pub(crate) struct Values(HashMap<String, f64>);

impl Values {
    /// The metric's newest number.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The mean of the metrics `name/BLOCK`.
    pub fn mean_of_blocks(&self, name: &str) -> Option<f64> {
        let own = self.0.iter().filter(|(metric, _)| {
            let block = metric
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('/'));
            block.is_some_and(|block| block.parse::<usize>().is_ok())
        });
        let values: Vec<f64> = own.map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Keeps a number.
    pub fn set(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.0.insert(name.to_string(), value);
        }
    }

    /// A share in percent, six characters wide.
    pub fn percent(&self, name: &str) -> String {
        match self.get(name) {
            Some(value) => format!("{:5.1}%", value * 100.0),
            None => "     -".into(),
        }
    }

    /// The loss, six characters wide.
    pub fn loss(&self) -> String {
        match self.get("loss") {
            Some(loss) => format!("{loss:6.4}"),
            None => "     -".into(),
        }
    }
}

/// The numbers of a training under way, and how far it is.
pub(crate) struct Numbers {
    names: HashMap<MetricId, String>,
    /// Of the last training batch, or the last epoch's means.
    pub train: Values,
    /// Of the held-out images.
    pub valid: Values,
    /// Epochs in all.
    pub total_epochs: usize,
    /// The epoch under way, from 1.
    pub epoch: usize,
    /// Training, and not measuring held-out images?
    pub in_training: bool,
    first_epoch: usize,
    items: usize,
    items_total: usize,
    started: Instant,
}

impl Numbers {
    pub fn new() -> Self {
        Self {
            names: HashMap::new(),
            train: Values::default(),
            valid: Values::default(),
            total_epochs: 0,
            epoch: 1,
            in_training: false,
            first_epoch: 1,
            items: 0,
            items_total: 0,
            started: Instant::now(),
        }
    }

    pub fn register(&mut self, definition: MetricDefinition) {
        let name = definition.name.to_string();
        self.names.insert(definition.metric_id, name);
    }

    pub fn update_train(&mut self, state: MetricState) {
        store(&self.names, &mut self.train, state);
    }

    pub fn update_valid(&mut self, state: MetricState) {
        store(&self.names, &mut self.valid, state);
    }

    pub fn start(&mut self, total_epochs: usize, starting_epoch: usize) {
        self.total_epochs = total_epochs;
        self.first_epoch = starting_epoch;
        self.epoch = starting_epoch;
        self.started = Instant::now();
    }

    pub fn start_split(&mut self, split: &str, total_items: usize) {
        self.in_training = split == "train";
        if self.in_training {
            // Else a metric that this epoch lacks would keep the last epoch's value.
            self.train = Values::default();
        }
        self.items = 0;
        self.items_total = total_items;
    }

    pub fn update_split(&mut self, items: usize) {
        self.items = items;
    }

    pub fn end_epoch(&mut self, epoch: usize) {
        self.epoch = epoch + 1;
        self.items = 0;
        self.in_training = false;
    }

    /// How much of the pass through the images is done, from 0 to 1.
    pub fn share_of_split(&self) -> f64 {
        match self.items_total {
            0 => 0.0,
            total => (self.items as f64 / total as f64).min(1.0),
        }
    }

    /// Epochs done, with the part of the one under way.
    pub fn epochs_done(&self) -> f64 {
        let whole = self.epoch.saturating_sub(1) as f64;
        if self.in_training {
            whole + self.share_of_split()
        } else if self.items > 0 {
            // Held-out images are measured when the epoch's steps are over.
            whole + 1.0
        } else {
            whole
        }
    }

    /// The time that the rest will take, from what has been done since the start.
    pub fn remaining(&self) -> Option<Duration> {
        let before = self.first_epoch.saturating_sub(1) as f64;
        let done = self.epochs_done() - before;
        let left = (self.total_epochs as f64 - self.epochs_done()).max(0.0);
        (done > 0.0).then(|| self.started.elapsed().mul_f64(left / done))
    }

    /// The same as people read it.
    pub fn left(&self) -> String {
        self.remaining().map_or("?".into(), duration)
    }
}

fn store(names: &HashMap<MetricId, String>, into: &mut Values, state: MetricState) {
    let MetricState::Numeric(entry, numeric) = state else {
        return;
    };
    let text = &entry.serialized_entry.serialized;
    let value = match NumericEntry::deserialize(text) {
        Ok(NumericEntry::Final(value)) => Some(value),
        _ => numeric.map(|entry| entry.current()),
    };
    if let (Some(name), Some(value)) = (names.get(&entry.metric_id), value) {
        into.set(name, value);
    }
}

/// A time as people read it: `1h02m`, `3m20s`, `12s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_not_shown() {
        let mut values = Values::default();
        values.set("loss", f64::NAN);
        values.set("pruned_accuracy", f64::INFINITY);
        assert_eq!(values.loss().trim(), "-");
        assert_eq!(values.percent("pruned_accuracy").trim(), "-");
        values.set("pruned_accuracy", 0.5);
        values.set("pruned_accuracy", f64::NAN);
        assert_eq!(values.percent("pruned_accuracy").trim(), "50.0%");
    }

    #[test]
    fn the_blocks_of_a_metric_have_a_mean_and_no_other_metric_counts() {
        let mut values = Values::default();
        assert_eq!(values.mean_of_blocks("reward"), None);
        for (name, value) in [
            ("reward/1", 0.5),
            ("reward/10", -0.1),
            ("rewards/2", 9.0),
            ("reward/x", 9.0),
        ] {
            values.set(name, value);
        }
        assert_eq!(values.mean_of_blocks("reward"), Some(0.2));
    }

    #[test]
    fn a_metric_that_an_epoch_lacks_is_not_shown_as_the_last_one_had_it() {
        let mut numbers = Numbers::new();
        numbers.start_split("train", 10);
        numbers.train.set("dense_accuracy", 0.5);
        numbers.start_split("valid", 10);
        assert_eq!(numbers.train.get("dense_accuracy"), Some(0.5));
        numbers.end_epoch(1);
        numbers.start_split("train", 10);
        assert_eq!(numbers.train.percent("dense_accuracy").trim(), "-");
    }

    #[test]
    fn progress_counts_the_epoch_under_way() {
        let mut numbers = Numbers::new();
        numbers.start(4, 2);
        assert_eq!((numbers.epochs_done(), numbers.left()), (1.0, "?".into()));
        numbers.start_split("train", 10);
        numbers.update_split(5);
        assert_eq!(numbers.epochs_done(), 1.5);
        numbers.start_split("valid", 10);
        numbers.update_split(5);
        assert_eq!(numbers.epochs_done(), 2.0);
        numbers.end_epoch(2);
        assert_eq!(numbers.epochs_done(), 2.0);
    }
}
