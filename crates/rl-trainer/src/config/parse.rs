//! Config files and `key=value` overrides to a config, and errors that say what to do.

use std::path::Path;

use toml::{Table, Value};

use super::ExperimentConfig;
use super::retired::refuse_retired;
use crate::TrainerError;

impl ExperimentConfig {
    /// Reads a TOML file and applies `key=value` overrides to it.
    ///
    /// # Errors
    ///
    /// Names the file or the override and the key, and the nearest valid key to an unknown one.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainerError> {
        let text = std::fs::read_to_string(path).map_err(TrainerError::io(path, "read"))?;
        Self::parse(&text, &path.display().to_string(), overrides)
    }

    /// Reads TOML text; `origin` is what errors call it.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, TrainerError> {
        let refuse = |origin: &str, reason: &str| TrainerError::Config {
            origin: origin.to_string(),
            reason: with_nearest(reason),
        };
        let mut table: Table =
            toml::from_str(text).map_err(|error| refuse(origin, error.to_string().trim()))?;
        refuse_retired(&table).map_err(|reason| refuse(origin, &reason))?;
        // Once on the text itself: such errors name the line.
        let mut config: Self =
            toml::from_str(text).map_err(|error| refuse(origin, error.to_string().trim()))?;
        for entry in overrides {
            let origin = format!("--set {entry}");
            set(&mut table, entry).map_err(|reason| refuse(&origin, &reason))?;
            refuse_retired(&table).map_err(|reason| refuse(&origin, &reason))?;
            config = table
                .clone()
                .try_into()
                .map_err(|error: toml::de::Error| refuse(&origin, error.message()))?;
        }
        config.validate()?;
        Ok(config)
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

/// Puts `a.b.c=value` into the table; a value that is not TOML is taken as a string.
fn set(table: &mut Table, entry: &str) -> Result<(), String> {
    let (key, value) = entry
        .split_once('=')
        .ok_or("expected key=value, as in train.steps=1000")?;
    let value = format!("value = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_string()));
    let mut parts = key.trim().split('.').peekable();
    let mut table = table;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
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
    let nearest = valid
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(found, a).total_cmp(&strsim::jaro_winkler(found, b)));
    match nearest {
        Some(nearest) => format!("{message}\ndid you mean `{nearest}`?"),
        None => message,
    }
}
