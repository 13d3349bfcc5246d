use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use apt_inference::{CheckpointFolder, EpochScores};
use apt_vit_model::printable;
use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use serde_json::{Map, Value, json};

use super::event_file::{EventFile, LoggedPicture};
use crate::TrainerError;

/// How TensorBoard's tags of a batch begin.
const OF_BATCHES: &str = "train/";
/// TensorBoard's tag of the config, at step 0.
const CONFIG: &str = "config";
/// How TensorBoard's tags of pictures begin.
const PICTURES: &str = "kept patches/";
/// A line's seconds since the run began, summed over its sessions.
const SECONDS: &str = "seconds";
/// TensorBoard's folder.
const EVENTS: &str = "tensorboard";
/// The file with a line for each batch and each epoch.
const FILE: &str = "metrics.jsonl";

/// The epoch averages of a run: by split, epoch and name.
pub(crate) type Averages = HashMap<(String, usize, String), f64>;

/// Writes each batch's and each epoch's numbers to `metrics.jsonl` and to TensorBoard event
/// files, and saves by what the epochs' checkpoints are chosen.
pub(crate) struct RunLog {
    lines: BufWriter<File>,
    events: EventFile,
    names: HashMap<MetricId, String>,
    averages: Averages,
    /// By TensorBoard's tag, sum and number of what the batches of the step so far gave.
    of_step: BTreeMap<String, (f64, f64)>,
    batches: u64,
    accumulation: u64,
    /// Where the epochs' scores are kept, by which checkpoints are chosen.
    checkpoints: CheckpointFolder,
    /// Seconds that the sessions of the run before this one took.
    seconds_before: f64,
    started: Instant,
    failed: bool,
}

impl RunLog {
    /// Seconds that the sessions of a run have taken so far, as far as they were logged.
    pub fn seconds(folder: &Path) -> Result<f64, TrainerError> {
        Ok(seconds_of(&read_lines(&folder.join(FILE))?))
    }

    /// Opens the log of a run of which `steps_done` steps stay; what was logged after them is
    /// removed, from the metrics and from TensorBoard's files.
    pub fn open(
        folder: &Path,
        steps_done: u64,
        accumulation: u64,
        steps_per_epoch: u64,
        checkpoints: CheckpointFolder,
    ) -> Result<Self, TrainerError> {
        let path = folder.join(FILE);
        let lines = read_lines(&path)?;
        // Time that went into steps that are lost counts, too.
        let seconds_before = seconds_of(&lines);
        let mut text = Vec::new();
        let mut last = 0;
        for line in lines {
            let values = &line.values;
            let step = values["step"].as_u64().unwrap_or(u64::MAX);
            let epoch = values["epoch"].as_u64().unwrap_or(u64::MAX);
            let of_lost_epoch =
                !values["average"].is_null() && epoch.saturating_mul(steps_per_epoch) > steps_done;
            if step <= steps_done && !of_lost_epoch {
                // As it was written: a number that is read and written again may have another last digit.
                text.extend(line.text);
                text.push(b'\n');
                last = last.max(step);
            }
        }
        if last < steps_done {
            tracing::warn!(
                "{} ends with step {last}, and the training goes on from step {steps_done}: numbers of the steps between are \
                 missing there",
                printable(&path)
            );
        }
        let partial = folder.join("metrics.jsonl.partial");
        std::fs::write(&partial, text).map_err(TrainerError::io(&partial, "write"))?;
        std::fs::rename(&partial, &path).map_err(TrainerError::io(&path, "write"))?;
        let file = OpenOptions::new().append(true).open(&path);
        let events = folder.join(EVENTS);
        // Averages of an epoch stand at its last step.
        let stays = |step: u64, tag: &str| {
            step <= steps_done
                && tag != CONFIG
                && (tag.starts_with(OF_BATCHES) || step.is_multiple_of(steps_per_epoch.max(1)))
        };
        let opened = EventFile::open(&events, stays).and_then(|mut file| {
            // As Markdown shows code.
            let config = std::fs::read_to_string(folder.join("config.toml")).unwrap_or_default();
            file.text(0, CONFIG, &format!("```toml\n{config}\n```"))?;
            Ok(file)
        });
        Ok(Self {
            lines: BufWriter::new(file.map_err(TrainerError::io(&path, "append to"))?),
            events: opened.map_err(TrainerError::io(&events, "write in"))?,
            names: HashMap::new(),
            averages: HashMap::new(),
            of_step: BTreeMap::new(),
            batches: steps_done * accumulation,
            accumulation,
            checkpoints,
            seconds_before,
            started: Instant::now(),
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
        let seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
        line.insert(SECONDS.into(), json!((seconds * 1e3).round() / 1e3));
        if average {
            line.insert("average".into(), json!(true));
        }
        for (name, value, _) in values {
            let tag = match (train, average) {
                (true, false) => format!("{OF_BATCHES}{name}"),
                (true, true) => format!("{split}_epoch/{name}"),
                (false, _) => format!("{split}/{name}"),
            };
            if train && !average {
                let (sum, count) = self.of_step.entry(tag).or_default();
                *sum += value;
                *count += 1.0;
            } else {
                self.events.scalar(step, &tag, value)?;
            }
            if average {
                self.averages
                    .insert((split.to_string(), epoch, name.clone()), value);
            }
            line.insert(name, json!(value));
        }
        if self.batches.is_multiple_of(self.accumulation) {
            // TensorBoard has each step once: the mean of its batches.
            for (tag, (sum, count)) in std::mem::take(&mut self.of_step) {
                self.events.scalar(step, &tag, sum / count)?;
            }
        }
        writeln!(self.lines, "{}", Value::Object(line))?;
        // A kill loses no line of a step that a checkpoint has.
        self.lines.flush()?;
        self.events.flush()?;
        if average {
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

/// Writes pictures of kept patches for TensorBoard, in place of earlier ones. Call it after the training has ended.
///
/// # Errors
///
/// Where the event file cannot be written.
pub fn log_pictures(
    folder: &Path,
    step: u64,
    pictures: impl IntoIterator<Item = LoggedPicture>,
) -> Result<(), TrainerError> {
    let events = folder.join(EVENTS);
    let written =
        EventFile::open(&events, |_, tag| !tag.starts_with(PICTURES)).and_then(|mut file| {
            for picture in pictures {
                let tag = format!("{PICTURES}{}", picture.tag);
                file.picture(step, &LoggedPicture { tag, ..picture })?;
            }
            file.flush()
        });
    written.map_err(TrainerError::io(&events, "write in"))
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

/// A line of a log.
struct Line {
    text: Vec<u8>,
    values: Value,
}

/// The whole lines of a log; one that was cut short is left out.
fn read_lines(path: &Path) -> Result<Vec<Line>, TrainerError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let file = File::open(path).map_err(TrainerError::io(path, "read"))?;
    let mut lines = Vec::new();
    for text in BufReader::new(file).split(b'\n') {
        let text = text.map_err(TrainerError::io(path, "read"))?;
        if let Ok(values) = serde_json::from_slice(&text) {
            lines.push(Line { text, values });
        }
    }
    Ok(lines)
}

/// The seconds after which the last of these lines was written.
fn seconds_of(lines: &[Line]) -> f64 {
    let seconds = lines
        .iter()
        .filter_map(|line| line.values[SECONDS].as_f64());
    seconds.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_goes_on_keeps_its_time_and_loses_the_steps_that_are_lost() {
        let folder = tempfile::tempdir().unwrap();
        let line = |step: u64, seconds: f64| {
            json!({ "split": "train", "epoch": 1, "step": step, "seconds": seconds }).to_string()
        };
        let text = [line(1, 10.0), line(2, 20.0), line(3, 30.0)].join("\n");
        std::fs::write(folder.path().join(FILE), text + "\n{\"split\": \"tr").unwrap();
        assert_eq!(RunLog::seconds(folder.path()).unwrap(), 30.0);
        let checkpoints = CheckpointFolder::new(folder.path().join("checkpoints"), 4);
        let log = RunLog::open(folder.path(), 2, 1, 4, checkpoints).unwrap();
        assert_eq!(log.seconds_before, 30.0);
        let kept = read_lines(&folder.path().join(FILE)).unwrap();
        let steps = kept.iter().map(|line| line.values["step"].as_u64());
        assert_eq!(steps.collect::<Vec<_>>(), [Some(1), Some(2)]);
    }

    #[test]
    fn lines_that_stay_keep_every_digit_and_a_damaged_one_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let line = |step: u64, loss: &str| {
            format!("{{\"split\":\"train\",\"step\":{step},\"loss\":{loss}}}\n").into_bytes()
        };
        let kept = [
            line(1, "2.3084800243376686"),
            line(2, "0.10000000000000001"),
        ];
        let mut text = kept[0].clone();
        text.extend(b"{\"split\": \"\xff\xfe\n");
        text.extend(&kept[1]);
        text.extend(line(3, "1.0"));
        std::fs::write(&file, text).unwrap();
        let checkpoints = CheckpointFolder::new(folder.path().join("checkpoints"), 4);
        RunLog::open(folder.path(), 2, 1, 4, checkpoints).unwrap();
        assert!(std::fs::read(&file).unwrap() == kept.concat());
    }
}
