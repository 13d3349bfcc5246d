use std::collections::HashMap;
use std::time::{Duration, Instant};

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

/// How often a line is printed within an epoch.
const INTERVAL: Duration = Duration::from_secs(20);

/// Shows a training as plain lines on stderr: one every so often, and one for each epoch.
pub(crate) struct PlainRenderer {
    names: HashMap<MetricId, String>,
    train: HashMap<String, f64>,
    valid: HashMap<String, f64>,
    total_epochs: usize,
    first_epoch: usize,
    epoch: usize,
    in_training: bool,
    items: usize,
    items_total: usize,
    started: Instant,
    last_line: Instant,
}

impl PlainRenderer {
    pub fn new() -> Self {
        Self {
            names: HashMap::new(),
            train: HashMap::new(),
            valid: HashMap::new(),
            total_epochs: 0,
            first_epoch: 1,
            epoch: 1,
            in_training: false,
            items: 0,
            items_total: 0,
            started: Instant::now(),
            last_line: Instant::now(),
        }
    }

    fn store(
        names: &HashMap<MetricId, String>,
        into: &mut HashMap<String, f64>,
        state: MetricState,
    ) {
        let MetricState::Numeric(entry, numeric) = state else {
            return;
        };
        let text = &entry.serialized_entry.serialized;
        let value = match NumericEntry::deserialize(text) {
            Ok(NumericEntry::Final(value)) => Some(value),
            _ => numeric.map(|entry| entry.current()),
        };
        if let (Some(name), Some(value)) =
            (names.get(&entry.metric_id), value.filter(|v| v.is_finite()))
        {
            into.insert(name.clone(), value);
        }
    }

    /// The time that the rest will take, from what has been done since the start.
    fn remaining(&self) -> String {
        let within = match self.items_total {
            0 => 0.0,
            total => self.items as f64 / total as f64,
        };
        let done = (self.epoch - self.first_epoch) as f64 + within;
        let left = (self.total_epochs + 1 - self.first_epoch) as f64 - done;
        if done <= 0.0 {
            return "?".into();
        }
        duration(self.started.elapsed().mul_f64(left.max(0.0) / done))
    }

    fn numbers(values: &HashMap<String, f64>) -> String {
        let percent = |name: &str| match values.get(name) {
            Some(value) => format!("{:5.1}%", value * 100.0),
            None => "    -".into(),
        };
        let loss = values.get("loss").copied().unwrap_or(f64::NAN);
        format!(
            "loss {loss:6.4}  pruned {}  dense {}  FLOPs {}",
            percent("pruned_accuracy"),
            percent("dense_accuracy"),
            percent("flops_share"),
        )
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

impl MetricsRendererTraining for PlainRenderer {
    fn update_train(&mut self, state: MetricState) {
        Self::store(&self.names, &mut self.train, state);
    }

    fn update_valid(&mut self, state: MetricState) {
        Self::store(&self.names, &mut self.valid, state);
    }
}

impl TrainingProgressLogger for PlainRenderer {
    fn start(
        &mut self,
        total_epochs: usize,
        starting_epoch: usize,
        _total_items: Option<usize>,
        _label: Option<&str>,
    ) {
        self.total_epochs = total_epochs;
        self.first_epoch = starting_epoch;
        self.epoch = starting_epoch;
        self.started = Instant::now();
    }

    fn start_split(&mut self, split: &str, total_items: usize) {
        self.in_training = split == "train";
        self.items = 0;
        self.items_total = total_items;
    }

    fn update_split(&mut self, items_processed: usize) {
        if !self.in_training {
            return;
        }
        self.items = items_processed;
        if self.last_line.elapsed() >= INTERVAL {
            self.last_line = Instant::now();
            let speed = self.train.get("images_per_s").copied().unwrap_or(0.0);
            eprintln!(
                "  epoch {}/{} {:3.0}%  {}  {speed:.0} images/s  left {}",
                self.epoch,
                self.total_epochs,
                100.0 * self.items as f64 / self.items_total.max(1) as f64,
                Self::numbers(&self.train),
                self.remaining(),
            );
        }
    }

    fn end_split(&mut self) {}

    fn update_epoch(&mut self, epoch: usize) {
        self.epoch = epoch + 1;
        self.items = 0;
        self.in_training = false;
        self.last_line = Instant::now();
        eprintln!(
            "epoch {epoch}/{}  train: {}  held out: {}  left {}",
            self.total_epochs,
            Self::numbers(&self.train),
            Self::numbers(&self.valid),
            self.remaining(),
        );
    }

    fn end(&mut self) {}

    // burn-train announces each iteration here.
    fn log_event_training(&mut self, _event: String) {}
}

impl MetricsRendererEvaluation for PlainRenderer {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl EvaluationProgressLogger for PlainRenderer {
    fn start_global_progress(&mut self, _total_tests: usize) {}
    fn start_test(&mut self, _name: &str, _total_items: usize) {}
    fn update_test_progress(&mut self, _items_processed: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRenderer for PlainRenderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names
            .insert(definition.metric_id, definition.name.to_string());
    }
}
