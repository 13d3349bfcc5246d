//! A JSON file of a folder. The file, or any of its fields, may be missing.

use std::path::Path;

use apt_data::read_text;
use apt_inference::verify;
use serde_json::Value;

use crate::number::{Number, Style};

/// A JSON file; `null` if it is missing or cannot be parsed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Its name in the folder.
    pub file: String,
    /// Its content.
    pub value: Value,
}

/// The end of the message about a file that differs from its checksum. The file is read nevertheless.
pub const DIFFERS: &str = "its numbers are shown as they stand in it";

impl Document {
    /// Reads `file` of `folder`. Adds a sentence to `problems` if the file is damaged, and none if it is missing.
    pub fn read(folder: &Path, file: &str, problems: &mut Vec<String>) -> Self {
        let empty = Self {
            file: file.into(),
            value: Value::Null,
        };
        let path = folder.join(file);
        if !path.exists() {
            return empty;
        }
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(error) => {
                problems.push(format!("{file} cannot be read: {error}"));
                return empty;
            }
        };
        if let Err(error) = verify(&path, DIFFERS) {
            problems.push(error.to_string());
        }
        match serde_json::from_str(&text) {
            Ok(value) => Self { value, ..empty },
            Err(error) => {
                problems.push(format!("{file} is damaged: {error}"));
                empty
            }
        }
    }

    /// The values of a TOML file's text; `null` if it cannot be parsed.
    pub fn toml(file: &str, text: &str) -> Self {
        Self {
            file: file.into(),
            value: toml::from_str(text).unwrap_or_default(),
        }
    }

    /// Is it there and readable?
    pub fn is_there(&self) -> bool {
        !self.value.is_null()
    }

    /// The number at this JSON pointer.
    pub fn number(&self, pointer: &str, style: Style) -> Option<Number> {
        let value = self.value.pointer(pointer)?.as_f64()?;
        Some(Number {
            value,
            from: Some(format!("{}#{pointer}", self.file)),
            style,
        })
    }

    /// The text at this JSON pointer.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.value.pointer(pointer)?.as_str()
    }

    /// The items of the array at this JSON pointer; none where there is no array.
    pub fn items(&self, pointer: &str) -> &[Value] {
        let items = self.value.pointer(pointer).and_then(Value::as_array);
        items.map_or(&[], Vec::as_slice)
    }
}
