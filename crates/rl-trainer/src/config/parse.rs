//! Config files and `key=value` overrides to a config, and errors that say what to do.

use std::collections::BTreeMap;
use std::path::Path;

use apt_data::{DataSource, read_text};
use apt_pruning_agent::PolicyConfig;
use serde_json::Map;
use toml::{Table, Value};

use super::ExperimentConfig;
use super::forms::refuse_wrong_forms;
use super::retired::refuse_retired;
use crate::TrainerError;

impl ExperimentConfig {
    /// Reads a TOML file and applies `key=value` overrides to it.
    ///
    /// # Errors
    ///
    /// Names the file or the override and the key, and the nearest valid key to an unknown one.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainerError> {
        let text = read_text(path)?;
        Self::parse(&text, &path.display().to_string(), overrides)
    }

    /// Reads TOML text; `origin` is what errors call it.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, TrainerError> {
        let mut table: Table =
            toml::from_str(text).map_err(|error| refusal(origin, error.to_string().trim()))?;
        let check = |table: &Table| {
            refuse_retired(table)?;
            refuse_wrong_forms(table)?;
            refuse_other_sources(table)
        };
        check(&table).map_err(|reason| refusal(origin, &reason))?;
        // Once on the text itself: such errors name the line.
        let mut config: Self =
            toml::from_str(text).map_err(|error| refusal(origin, error.to_string().trim()))?;
        for entry in overrides {
            let origin = format!("--set {}", shortened(entry));
            set(&mut table, entry).map_err(|reason| refusal(&origin, &reason))?;
            check(&table).map_err(|reason| refusal(&origin, &reason))?;
            config = table
                .clone()
                .try_into()
                .map_err(|error: toml::de::Error| refusal(&origin, error.message()))?;
        }
        config.validate()?;
        config.fit_warmup(&table, origin);
        Ok(config)
    }

    /// A warm-up that nobody asked for is at most a tenth of the training; one that is longer than the training is as long.
    fn fit_warmup(&mut self, table: &Table, origin: &str) {
        let (steps, warmup) = (self.train.steps, &mut self.schedule.warmup_steps);
        let schedule = table.get("schedule").and_then(Value::as_table);
        if !schedule.is_some_and(|schedule| schedule.contains_key("warmup_steps")) {
            *warmup = (*warmup).min(steps / 10);
        } else if *warmup > steps {
            tracing::warn!(
                "{origin}: schedule.warmup_steps = {warmup} is more than train.steps = {steps}: the warm-up takes all {steps}"
            );
            *warmup = steps;
        }
    }

    /// The config as TOML text.
    ///
    /// # Errors
    ///
    /// Where a value has no TOML form.
    pub fn to_toml(&self) -> Result<String, TrainerError> {
        toml::to_string_pretty(self).map_err(|error| TrainerError::Config {
            origin: "config".into(),
            reason: error.to_string(),
        })
    }
}

/// The settings in `policy.key=value` overrides, for a policy that is named elsewhere; its name, where one policy is meant.
///
/// # Errors
///
/// Names the first override that is of another form, of something else, or wrong for that policy.
pub fn policy_settings(
    policy: Option<&str>,
    overrides: &[String],
) -> Result<Map<String, serde_json::Value>, TrainerError> {
    let mut table = Table::new();
    let mut settings = Map::new();
    for entry in overrides {
        let refuse = |reason: &str| refusal(&format!("--set {}", shortened(entry)), reason);
        let (key, _) = entry.split_once('=').unwrap_or_default();
        if key.trim() == "policy.name" || !key.trim().starts_with("policy.") {
            let expected = "expected a setting of the policy, as in policy.width=8";
            return Err(refuse(expected));
        }
        set(&mut table, entry).map_err(|reason| refuse(&reason))?;
        let said: BTreeMap<String, Map<_, _>> = table
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| refuse(error.message()))?;
        settings = said.into_values().next().unwrap_or_default();
        if let Some(policy) = policy {
            PolicyConfig::with_settings(policy, settings.clone())
                .map_err(|error| refuse(&error.to_string()))?;
        }
    }
    Ok(settings)
}

/// Puts `a.b.c=value` into the table; a value that is not TOML is taken as a string.
fn set(table: &mut Table, entry: &str) -> Result<(), String> {
    let (key, value) = entry
        .split_once('=')
        .ok_or("expected key=value, as in train.steps=1000")?;
    let parsed = format!("value = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"));
    let value = match parsed {
        Some(value) => value,
        None if value.trim().parse::<f64>().is_ok() => {
            let greatest = i64::MAX;
            return Err(format!(
                "{value}: no number of TOML; whole numbers go up to {greatest} and have no leading zeros"
            ));
        }
        None => Value::String(value.to_string()),
    };
    let mut parts = key.trim().split('.').peekable();
    let mut table = table;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            // Another source has other keys.
            if key.trim() == "data.source" && table.get(part) != Some(&value) {
                table.clear();
            }
            table.insert(part.to_string(), value);
            return Ok(());
        }
        let entry = table
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()));
        // `policy = "tome"` is short for a table with that name.
        if let (Value::String(name), "policy" | "algorithm") = (&*entry, part) {
            let name = ("name".to_string(), Value::String(name.clone()));
            *entry = Value::Table(Table::from_iter([name]));
        }
        table = entry
            .as_table_mut()
            .ok_or_else(|| format!("'{part}' is a value and has no key below it"))?;
    }
    Ok(())
}

/// A line of an error; of a word that somebody gave and nobody reads, its two ends.
fn shortened(line: &str) -> String {
    const END: usize = 60;
    let word = |word: &str| {
        let chars: Vec<char> = word.chars().collect();
        if chars.len() <= 4 * END {
            return word.to_string();
        }
        let end = |part: &[char]| part.iter().collect::<String>();
        format!(
            "{}...{}",
            end(&chars[..END]),
            end(&chars[chars.len() - END..])
        )
    };
    let words: Vec<String> = line.split(' ').map(word).collect();
    words.join(" ")
}

fn refusal(origin: &str, reason: &str) -> TrainerError {
    let lines: Vec<String> = with_nearest(reason).lines().map(shortened).collect();
    TrainerError::Config {
        origin: origin.to_string(),
        reason: lines.join("\n"),
    }
}

/// Serde's message in words that need no Rust, and with the nearest valid name to an unknown one.
fn with_nearest(message: &str) -> String {
    let message = ["usize", "u64", "u32"]
        .iter()
        .fold(message.to_string(), |message, kind| {
            message.replace(&format!("expected {kind}"), "expected a whole number")
        });
    let message = ["f64", "f32"].iter().fold(message, |message, kind| {
        message.replace(&format!("expected {kind}"), "expected a number")
    });
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = ["unknown field", "unknown variant", "unknown policy"];
    let unknown = unknown.iter().any(|unknown| message.contains(unknown));
    let Some((found, valid)) = quoted.split_first().filter(|_| unknown) else {
        return message;
    };
    let distance = |name: &&&str| strsim::damerau_levenshtein(found, name);
    // A third of the letters may be wrong; what is further away was not meant.
    let nearest = valid.iter().min_by_key(distance);
    let near = nearest.filter(|name| 3 * distance(name) <= found.chars().count().max(3));
    match near {
        Some(nearest) => format!("{message}\ndid you mean `{nearest}`?"),
        None => message,
    }
}

/// # Errors
///
/// Names the first key in `[data]` that only other sources have.
fn refuse_other_sources(table: &Table) -> Result<(), String> {
    let data = table.get("data").and_then(Value::as_table);
    let Some((data, chosen)) = data.and_then(|data| Some((data, data.get("source")?.as_str()?)))
    else {
        return Ok(());
    };
    let sources: Vec<(String, Vec<String>)> = sources();
    let Some((_, keys)) = sources.iter().find(|(name, _)| name == chosen) else {
        return Ok(());
    };
    for found in data.keys().filter(|found| !keys.contains(found)) {
        let others = sources.iter().filter(|(_, keys)| keys.contains(found));
        let others: Vec<String> = others.map(|(name, _)| format!("\"{name}\"")).collect();
        if !others.is_empty() {
            let own: Vec<&str> = keys.iter().map(String::as_str).collect();
            return Err(format!(
                "the key `data.{found}` belongs to the source {}; the source \"{chosen}\" has the keys {}",
                others.join(" and "),
                own.join(", ")
            ));
        }
    }
    Ok(())
}

/// Every source of images by its name, with its keys, as their type reads them.
pub(super) fn sources() -> Vec<(String, Vec<String>)> {
    let read = |name: &str| {
        let said = Table::from_iter([("source".to_string(), Value::String(name.into()))]);
        said.try_into::<DataSource>()
    };
    let keys = |source: DataSource| {
        let all = Table::try_from(source).unwrap_or_default();
        all.keys().cloned().collect()
    };
    // The error of a name that there is not lists those that there are.
    let message = match read("") {
        Ok(_) => String::new(),
        Err(error) => error.message().to_string(),
    };
    let names = message.split('`').skip(3).step_by(2);
    names
        .filter_map(|name| Some((name.to_string(), keys(read(name).ok()?))))
        .collect()
}
