//! `metrics.jsonl`: a line for each batch, and one for each epoch's averages.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use apt_rl_trainer::Curve;
use serde_json::{Map, Value};

use crate::number::{Number, Style};

/// The file.
pub const FILE: &str = "metrics.jsonl";

/// A line, and which one of the file it is (from 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    number: usize,
    values: Map<String, Value>,
}

impl Line {
    /// The number called `name`.
    pub fn number(&self, name: &str, style: Style) -> Option<Number> {
        let value = self.values.get(name)?.as_f64()?;
        // As RFC 6901 says.
        let place = name.replace('~', "~0").replace('/', "~1");
        Some(Number {
            value,
            from: Some(format!("{FILE}:{}#/{place}", self.number)),
            style,
        })
    }

    fn value(&self, name: &str) -> Option<f64> {
        self.values.get(name)?.as_f64()
    }

    fn is(&self, split: &str, average: bool) -> bool {
        let own = self.values.get("split").and_then(Value::as_str);
        own == Some(split) && self.values.contains_key("average") == average
    }

    /// The optimiser step at its end.
    pub fn step(&self) -> Option<f64> {
        self.value("step")
    }
}

/// What a training logged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    lines: Vec<Line>,
}

impl Metrics {
    /// Reads the folder's file. Adds a sentence to `problems` if the file or one of its lines cannot be read.
    pub fn read(folder: &Path, problems: &mut Vec<String>) -> Self {
        let file = match File::open(folder.join(FILE)) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    problems.push(format!("{FILE} cannot be read: {error}"));
                }
                return Self::default();
            }
        };
        let mut lines = Vec::new();
        let mut damaged = 0;
        for (index, text) in BufReader::new(file).split(b'\n').enumerate() {
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    problems.push(format!("{FILE} cannot be read to its end: {error}"));
                    break;
                }
            };
            match serde_json::from_slice(&text) {
                Ok(values) => lines.push(Line {
                    number: index + 1,
                    values,
                }),
                Err(_) => damaged += 1,
            }
        }
        if damaged > 0 {
            problems.push(format!("{FILE}: {damaged} of its lines cannot be read"));
        }
        Self { lines }
    }

    /// Was nothing logged?
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The averages of epochs of `split`: `train` or `valid`.
    pub fn epochs(&self, split: &str) -> Vec<&Line> {
        let lines = self.lines.iter();
        lines.filter(|line| line.is(split, true)).collect()
    }

    /// The last step that was logged.
    pub fn last_step(&self) -> Option<f64> {
        let steps = self.lines.iter().filter_map(Line::step);
        steps.max_by(f64::total_cmp)
    }

    /// By step, a metric of the epochs' averages.
    pub fn of_epochs(&self, split: &str, name: &str) -> Vec<(f64, f64)> {
        let epochs = self.epochs(split).into_iter();
        epochs
            .filter_map(|line| line.step().zip(line.value(name)))
            .collect()
    }

    /// By step, a metric of the batches; with many batches, neighbours are averaged.
    pub fn of_batches(&self, name: &str) -> Vec<(f64, f64)> {
        self.drawn_in(name, Curve::new())
    }

    /// The same, of the mean of the last `window` batches: for a metric that alternates.
    pub fn mean_of_batches(&self, name: &str, window: usize) -> Vec<(f64, f64)> {
        self.drawn_in(name, Curve::mean_of_last(window))
    }

    fn drawn_in(&self, name: &str, mut curve: Curve) -> Vec<(f64, f64)> {
        let lines = self.lines.iter().filter(|line| line.is("train", false));
        for (step, value) in lines.filter_map(|line| line.step().zip(line.value(name))) {
            curve.push(step, value);
        }
        curve.points().to_vec()
    }

    /// The blocks for which there is a metric `name/BLOCK`.
    pub fn blocks(&self, name: &str) -> Vec<usize> {
        let keys = self.lines.iter().flat_map(|line| line.values.keys());
        let blocks = keys.filter_map(|key| key.strip_prefix(name)?.strip_prefix('/')?.parse().ok());
        let blocks: BTreeSet<usize> = blocks.collect();
        blocks.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_lines_are_counted_and_leave_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let text = "{\"split\":\"train\",\"epoch\":1,\"step\":1,\"loss\":2.5,\"keep_rate/3\":0.5}\n\
                    {\"split\":\"valid\",\"average\":true,\"step\":1,\"loss\":2.25}\n{\"split\":\"tr";
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let mut problems = Vec::new();
        let metrics = Metrics::read(folder.path(), &mut problems);
        assert_eq!(problems, ["metrics.jsonl: 1 of its lines cannot be read"]);
        assert_eq!(metrics.of_batches("loss"), [(1.0, 2.5)]);
        assert_eq!(metrics.of_epochs("valid", "loss"), [(1.0, 2.25)]);
        assert_eq!(metrics.blocks("keep_rate"), [3]);
        assert_eq!(metrics.last_step(), Some(1.0));
        let number = metrics.epochs("valid")[0].number("loss", Style::Shortest);
        assert_eq!(number.unwrap().from.unwrap(), "metrics.jsonl:2#/loss");
    }
}
