use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use apt_inference::{CheckpointFolder, EpochScores};
use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use serde_json::{Map, Value, json};

use super::event_file::EventFile;
use crate::TrainerError;

/// The epoch averages of a run: by split, epoch and name.
pub(crate) type Averages = HashMap<(String, usize, String), f64>;

/// Writes each batch's and each epoch's numbers to `metrics.jsonl` and to TensorBoard event
/// files, and tells burn-train's strategies the epochs' averages, also those from before a
/// resume.
pub(crate) struct RunLog {
    lines: BufWriter<File>,
    events: EventFile,
    names: HashMap<MetricId, String>,
    averages: Averages,
    batches: u64,
    accumulation: u64,
    /// Where the epochs' scores are kept, by which checkpoints are chosen.
    checkpoints: CheckpointFolder,
    failed: bool,
}

impl RunLog {
    /// Opens the log of a run of which `steps_done` steps stay; what was logged after them is
    /// removed.
    pub fn open(
        folder: &Path,
        steps_done: u64,
        accumulation: u64,
        steps_per_epoch: u64,
        checkpoints: CheckpointFolder,
    ) -> Result<Self, TrainerError> {
        let path = folder.join("metrics.jsonl");
        let kept: Vec<Value> = read_lines(&path)?
            .into_iter()
            .filter(|line| {
                let step = line["step"].as_u64().unwrap_or(u64::MAX);
                let epoch = line["epoch"].as_u64().unwrap_or(u64::MAX);
                step <= steps_done
                    && (line["average"].is_null() || epoch * steps_per_epoch <= steps_done)
            })
            .collect();
        let mut text = String::new();
        for line in &kept {
            text.push_str(&line.to_string());
            text.push('\n');
        }
        let partial = folder.join("metrics.jsonl.partial");
        std::fs::write(&partial, text).map_err(TrainerError::io(&partial, "write"))?;
        std::fs::rename(&partial, &path).map_err(TrainerError::io(&path, "write"))?;
        let file = OpenOptions::new().append(true).open(&path);
        let events = folder.join("tensorboard");
        Ok(Self {
            lines: BufWriter::new(file.map_err(TrainerError::io(&path, "append to"))?),
            events: EventFile::create(&events).map_err(TrainerError::io(&events, "write in"))?,
            names: HashMap::new(),
            averages: averages_of(&kept),
            batches: steps_done * accumulation,
            accumulation,
            checkpoints,
            failed: false,
        })
    }

    fn write(
        &mut self,
        update: &MetricsUpdate,
        epoch: usize,
        split: &Split,
    ) -> std::io::Result<()> {
        let values: Vec<(String, f64, bool)> = update
            .entries_numeric
            .iter()
            .filter_map(|entry| {
                let name = self.names.get(&entry.entry.metric_id)?.clone();
                let serialized =
                    NumericEntry::deserialize(&entry.entry.serialized_entry.serialized);
                let average = matches!(serialized, Ok(NumericEntry::Final(_)));
                let value = match (&entry.numeric_entry, serialized) {
                    (_, Ok(NumericEntry::Final(value))) => value,
                    (Some(entry), _) => entry.current(),
                    _ => return None,
                };
                value.is_finite().then_some((name, value, average))
            })
            .collect();
        let average = values.iter().any(|(_, _, average)| *average);
        let train = *split == Split::Train;
        if train && !average {
            self.batches += 1;
        }
        if values.is_empty() || (!train && !average) {
            return Ok(());
        }
        let step = self.batches.div_ceil(self.accumulation);
        let mut line = Map::new();
        line.insert("split".into(), json!(split.to_string()));
        line.insert("epoch".into(), json!(epoch));
        line.insert("step".into(), json!(step));
        if average {
            line.insert("average".into(), json!(true));
        }
        for (name, value, _) in values {
            let tag = if average && train {
                format!("{split}_epoch/{name}")
            } else {
                format!("{split}/{name}")
            };
            self.events.scalar(step, &tag, value)?;
            if average {
                self.averages
                    .insert((split.to_string(), epoch, name.clone()), value);
            }
            line.insert(name, json!(value));
        }
        writeln!(self.lines, "{}", Value::Object(line))?;
        if average {
            self.lines.flush()?;
            self.events.flush()?;
            self.save_scores(epoch)?;
        }
        Ok(())
    }

    /// Keeps by what the epoch's checkpoint may be chosen, once it is known.
    fn save_scores(&self, epoch: usize) -> std::io::Result<()> {
        let score = |name: &str| {
            let key = (Split::Valid.to_string(), epoch, name.to_string());
            self.averages.get(&key).copied()
        };
        let scores = score("dense_accuracy").zip(score("pruned_accuracy"));
        let Some((dense_accuracy, pruned_accuracy)) = scores else {
            return Ok(());
        };
        let scores = EpochScores {
            dense_accuracy,
            pruned_accuracy,
        };
        let saved = self.checkpoints.save_scores(epoch, scores);
        saved.map_err(|error| std::io::Error::other(error.to_string()))
    }
}

impl MetricLogger for RunLog {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        if let Err(error) = self.write(&update, epoch, split)
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!("metrics are not logged any more: {error}");
        }
    }

    fn read_numeric(
        &mut self,
        name: &str,
        epoch: usize,
        split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        let key = (split.to_string(), epoch, name.to_string());
        let average = self.averages.get(&key);
        Ok(average
            .map(|&value| NumericEntry::Final(value))
            .into_iter()
            .collect())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        // burn-train's own learning rate metric has a name of two words.
        let name = definition.name.to_lowercase().replace(' ', "_");
        self.names.insert(definition.metric_id, name);
    }

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}

/// The whole lines of a log; a last line that was cut short is left out.
fn read_lines(path: &Path) -> Result<Vec<Value>, TrainerError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let file = File::open(path).map_err(TrainerError::io(path, "read"))?;
    let lines = BufReader::new(file).lines();
    Ok(lines
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str(&line).ok())
        .collect())
}

fn averages_of(lines: &[Value]) -> Averages {
    let mut averages = Averages::new();
    for line in lines
        .iter()
        .filter(|line| line["average"].as_bool() == Some(true))
    {
        let (Some(split), Some(epoch)) = (line["split"].as_str(), line["epoch"].as_u64()) else {
            continue;
        };
        for (name, value) in line.as_object().into_iter().flatten() {
            if let Some(value) = value.as_f64() {
                averages.insert((split.to_string(), epoch as usize, name.clone()), value);
            }
        }
    }
    averages
}
