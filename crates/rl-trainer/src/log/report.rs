use std::collections::BTreeMap;
use std::sync::Arc;

use burn::backend::ExecutionError;
use burn::tensor::TensorReadError;
use burn::train::ItemLazy;
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes,
    NumericEntry, SerializedEntry,
};

/// What one batch gave, by metric name: plain numbers, averaged over its images.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Images of the batch: the weight of its averages.
    pub images: usize,
    /// The numbers.
    pub values: Arc<BTreeMap<String, f64>>,
}

impl Report {
    /// A report of `images` images.
    pub fn new(images: usize, values: BTreeMap<String, f64>) -> Self {
        Self {
            images,
            values: Arc::new(values),
        }
    }
}

impl ItemLazy for Report {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<Report> for Report {
    fn adapt(&self) -> Report {
        self.clone()
    }
}

/// A burn-train metric that shows one of a [`Report`]'s numbers.
#[derive(Clone)]
pub struct ReportMetric {
    name: MetricName,
    higher_is_better: bool,
    state: NumericMetricState,
}

impl ReportMetric {
    /// The number called `name`.
    pub fn new(name: &str, higher_is_better: bool) -> Self {
        Self {
            name: Arc::new(name.to_string()),
            higher_is_better,
            state: NumericMetricState::default(),
        }
    }

    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name.clone()).precision(4)
    }
}

impl Metric for ReportMetric {
    type Input = Report;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: None,
            higher_is_better: self.higher_is_better,
        }
        .into()
    }

    fn update(
        &mut self,
        report: &Report,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        match report.values.get(self.name.as_str()) {
            Some(&value) => self.state.update(value, report.images),
            None => self.state.update(f64::NAN, 0),
        }
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl Numeric for ReportMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}
