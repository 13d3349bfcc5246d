use std::io::{ErrorKind, Write, stderr};
use std::time::{Duration, Instant};

use burn::train::LearnerSummary;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

use super::numbers::{Numbers, Values};
use crate::train::StopRequest;

/// How often a line is printed within an epoch.
const INTERVAL: Duration = Duration::from_secs(20);
/// After so long comes the first one: a person wants to know soon how long it will take.
const FIRST: Duration = Duration::from_secs(3);

/// Shows a training as plain lines on stderr: one every so often, and one for each epoch. A reader that has seen enough, as
/// in `| head`, stops the training, which saves a checkpoint.
pub(crate) struct PlainRenderer<W = std::io::Stderr> {
    out: W,
    stop: StopRequest,
    numbers: Numbers,
    last_line: Instant,
    /// From the last line to the next.
    wait: Duration,
}

impl PlainRenderer {
    pub fn new(stop: StopRequest) -> Self {
        Self::to(stderr(), stop)
    }
}

impl<W: Write> PlainRenderer<W> {
    fn to(out: W, stop: StopRequest) -> Self {
        Self {
            out,
            stop,
            numbers: Numbers::new(),
            last_line: Instant::now(),
            wait: FIRST,
        }
    }

    /// Prints a line. It never panics: this thread's end would leave burn-train's loop waiting for it.
    fn line(&mut self, text: &str) {
        // In one piece: other threads print, too.
        let written = self.out.write_all(format!("{text}\n").as_bytes());
        if written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
            self.stop.stop();
        }
    }
}

fn in_short(values: &Values) -> String {
    format!(
        "loss {}  pruned {}  dense {}  FLOPs {}",
        values.loss(),
        values.percent("pruned_accuracy"),
        values.percent("dense_accuracy"),
        values.percent("flops_share"),
    )
}

impl<W: Write + Send + Sync> MetricsRendererTraining for PlainRenderer<W> {
    fn update_train(&mut self, state: MetricState) {
        self.numbers.update_train(state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.numbers.update_valid(state);
    }

    // burn-train's default prints it on stdout, which is for results.
    fn on_train_end(
        &mut self,
        _summary: Option<LearnerSummary>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        Ok(())
    }
}

impl<W: Write + Send + Sync> TrainingProgressLogger for PlainRenderer<W> {
    fn start(
        &mut self,
        total_epochs: usize,
        starting_epoch: usize,
        _total_items: Option<usize>,
        _label: Option<&str>,
    ) {
        self.numbers.start(total_epochs, starting_epoch);
    }

    fn start_split(&mut self, split: &str, total_items: usize) {
        self.numbers.start_split(split, total_items);
    }

    fn update_split(&mut self, items_processed: usize) {
        self.numbers.update_split(items_processed);
        if !self.numbers.in_training || self.last_line.elapsed() < self.wait {
            return;
        }
        self.last_line = Instant::now();
        self.wait = INTERVAL;
        let numbers = &self.numbers;
        let line = format!(
            "  epoch {}/{} {:3.0}%  {}  {:.0} images/s  left {}",
            numbers.epoch,
            numbers.total_epochs,
            100.0 * numbers.share_of_split(),
            in_short(&numbers.train),
            numbers.train.get("images_per_s").unwrap_or(0.0),
            numbers.left(),
        );
        self.line(&line);
    }

    fn end_split(&mut self) {}

    fn update_epoch(&mut self, epoch: usize) {
        self.numbers.end_epoch(epoch);
        self.last_line = Instant::now();
        self.wait = INTERVAL;
        let numbers = &self.numbers;
        let line = format!(
            "epoch {epoch}/{}  held out: {}  training loss {}  left {}",
            numbers.total_epochs,
            in_short(&numbers.valid),
            numbers.train.loss(),
            numbers.left(),
        );
        self.line(&line);
    }

    fn end(&mut self) {}

    // burn-train announces each iteration here.
    fn log_event_training(&mut self, _event: String) {}
}

impl<W: Write + Send + Sync> MetricsRendererEvaluation for PlainRenderer<W> {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl<W: Write + Send + Sync> EvaluationProgressLogger for PlainRenderer<W> {
    fn start_global_progress(&mut self, _total_tests: usize) {}
    fn start_test(&mut self, _name: &str, _total_items: usize) {}
    fn update_test_progress(&mut self, _items_processed: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _event: String) {}
}

impl<W: Write + Send + Sync> MetricsRenderer for PlainRenderer<W> {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.numbers.register(definition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a closed pipe, or a full disk, answers.
    struct Refusing(ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _text: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_is_gone_stops_the_training_and_a_full_disk_does_not() {
        for (kind, stops) in [
            (ErrorKind::BrokenPipe, true),
            (ErrorKind::StorageFull, false),
        ] {
            let stop = StopRequest::default();
            let mut renderer = PlainRenderer::to(Refusing(kind), stop.clone());
            renderer.update_epoch(1);
            assert_eq!(stop.is_requested(), stops, "{kind}");
        }
    }

    #[test]
    fn the_first_line_comes_early_and_the_next_ones_seldom() {
        let mut renderer = PlainRenderer::to(Vec::new(), StopRequest::default());
        renderer.start(1, 1, None, None);
        renderer.start_split("train", 100);
        renderer.update_split(1);
        assert!(renderer.out.is_empty(), "nothing is known yet");
        for items in [2, 3] {
            renderer.last_line = Instant::now().checked_sub(FIRST).unwrap();
            renderer.update_split(items);
        }
        let text = String::from_utf8(renderer.out).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("left "), "{text}");
    }

    #[test]
    fn an_epoch_is_one_line_without_nan() {
        let mut renderer = PlainRenderer::to(Vec::new(), StopRequest::default());
        renderer.start(2, 1, None, None);
        renderer.numbers.valid.set("pruned_accuracy", 0.5);
        renderer.numbers.valid.set("loss", f64::NAN);
        renderer.update_epoch(1);
        let text = String::from_utf8(renderer.out).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("50.0%") && !text.contains("NaN"), "{text}");
    }
}
