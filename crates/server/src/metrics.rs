//! What the server counts, in Prometheus' form. Each server has a recorder of its own: nothing here is global.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::{Priority, ServerError};

/// Bounds of the histograms of times, in seconds.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// Bounds of the histogram of images of a batch.
const IMAGES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

const METADATA: Metadata<'_> = Metadata::new("apt_server", Level::INFO, None);

/// The recorder of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were turned away because too many were open.
    pub turned_away: Counter,
    /// Requests that are being answered.
    pub in_flight: Gauge,
}

impl Metrics {
    /// Nothing counted yet.
    ///
    /// # Errors
    ///
    /// Where the exporter refuses the histograms' bounds.
    pub fn new() -> Result<Self, ServerError> {
        let full = |name: &str| Matcher::Full(name.to_string());
        let builder = PrometheusBuilder::new();
        let recorder = builder
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(full("aptvit_batch_images"), &IMAGES)
            })
            .map_err(|error| ServerError::Metrics(error.to_string()))?
            .build_recorder();
        let metrics = Self {
            handle: recorder.handle(),
            connections: gauge(&recorder, "aptvit_connections", Vec::new()),
            turned_away: counter(&recorder, "aptvit_connections_refused_total", Vec::new()),
            in_flight: gauge(&recorder, "aptvit_requests_in_flight", Vec::new()),
            recorder,
        };
        for (name, text) in DESCRIPTIONS {
            let text = text.to_string().into();
            let name = name.to_string().into();
            metrics.recorder.describe_gauge(name, None, text);
        }
        Ok(metrics)
    }

    /// Folds the times that were recorded into the histograms. Each is kept by itself until then, so that memory grows
    /// where this is never called.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        self.upkeep();
        self.handle.render()
    }

    /// A request was answered.
    pub fn answered(&self, route: &str, status: u16, seconds: f64) {
        let labels = vec![
            Label::new("route", route.to_string()),
            Label::new("status", status.to_string()),
        ];
        counter(&self.recorder, "aptvit_requests_total", labels.clone()).increment(1);
        histogram(&self.recorder, "aptvit_request_seconds", labels).record(seconds);
    }

    /// Those of one model.
    pub fn of_model(&self, model: &str) -> ModelMetrics {
        let recorder = &self.recorder;
        let labels = || vec![Label::new("model", model.to_string())];
        let counter = |name| counter(recorder, name, labels());
        let gauge_of = |name, labels| gauge(recorder, name, labels);
        let gauge = |name| gauge_of(name, labels());
        let histogram = |name| histogram(recorder, name, labels());
        ModelMetrics {
            accepted: counter("aptvit_accepted_total"),
            images: counter("aptvit_images_total"),
            flops: counter("aptvit_flops_total"),
            cancelled: counter("aptvit_cancelled_total"),
            late: counter("aptvit_late_total"),
            failed: counter("aptvit_failed_total"),
            refused: counter("aptvit_refused_total"),
            samples: counter("aptvit_fidelity_samples_total"),
            queue: histogram("aptvit_queue_seconds"),
            prepare: histogram("aptvit_prepare_seconds"),
            compute: histogram("aptvit_compute_seconds"),
            batch: histogram("aptvit_batch_images"),
            waiting: gauge("aptvit_queue_images"),
            wait: gauge("aptvit_predicted_wait_seconds"),
            divergence: gauge("aptvit_fidelity_kl_nats"),
            agreement: gauge("aptvit_fidelity_agreement"),
            share: Priority::ALL.map(|priority| {
                let mut labels = labels();
                labels.push(Label::new("priority", priority.name()));
                gauge_of("aptvit_share", labels)
            }),
        }
    }
}

/// What one model counts.
pub struct ModelMetrics {
    pub(crate) accepted: Counter,
    pub(crate) images: Counter,
    pub(crate) flops: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) late: Counter,
    pub(crate) failed: Counter,
    pub(crate) refused: Counter,
    pub(crate) samples: Counter,
    pub(crate) queue: Histogram,
    pub(crate) prepare: Histogram,
    pub(crate) compute: Histogram,
    pub(crate) batch: Histogram,
    pub(crate) waiting: Gauge,
    pub(crate) wait: Gauge,
    pub(crate) divergence: Gauge,
    pub(crate) agreement: Gauge,
    pub(crate) share: [Gauge; Priority::ALL.len()],
}

const DESCRIPTIONS: [(&str, &str); 22] = [
    ("aptvit_connections", "Open connections."),
    (
        "aptvit_connections_refused_total",
        "Connections turned away because too many were open.",
    ),
    (
        "aptvit_requests_in_flight",
        "Requests that are being answered.",
    ),
    (
        "aptvit_requests_total",
        "Answered requests by route and status.",
    ),
    (
        "aptvit_request_seconds",
        "Time from a request's head to its answer.",
    ),
    ("aptvit_accepted_total", "Images taken in."),
    ("aptvit_images_total", "Images computed."),
    (
        "aptvit_flops_total",
        "FLOPs computed, counted, the policy's own included.",
    ),
    (
        "aptvit_cancelled_total",
        "Images dropped because their client went away.",
    ),
    (
        "aptvit_late_total",
        "Images dropped because their deadline passed.",
    ),
    (
        "aptvit_failed_total",
        "Images whose batch failed, or whose answer is no finite number.",
    ),
    (
        "aptvit_refused_total",
        "Images refused because the queue was too long.",
    ),
    (
        "aptvit_fidelity_samples_total",
        "Answers that were computed again, dense.",
    ),
    (
        "aptvit_queue_seconds",
        "Time an image waits, without its decoding.",
    ),
    (
        "aptvit_prepare_seconds",
        "Time to decode and resize an image.",
    ),
    ("aptvit_compute_seconds", "Time to compute a batch."),
    ("aptvit_batch_images", "Images of a batch."),
    (
        "aptvit_share",
        "Share of the dense FLOPs that an image is given now.",
    ),
    ("aptvit_queue_images", "Images that wait, decoded or not."),
    (
        "aptvit_predicted_wait_seconds",
        "Wait that the queue means for a new image of normal priority.",
    ),
    (
        "aptvit_fidelity_kl_nats",
        "KL(dense || pruned) over the last samples.",
    ),
    (
        "aptvit_fidelity_agreement",
        "Share of equal top-1 answers, dense and pruned, over the last samples.",
    ),
];

fn counter(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Gauge {
    recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Histogram {
    recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
}
