//! Forms of values that parse, and that no key has.

use toml::{Table, Value};

/// What is a table of keys, wherever it stands.
const TABLES: [&str; 6] = ["data", "input", "model", "train", "optimizer", "schedule"];
/// What is a table of keys, or one value in short.
const TABLES_OR_VALUES: [&str; 5] = [
    "policy",
    "policy.algorithm",
    "input.transform",
    "input.normalization",
    "model.stem",
];

/// Refuses a list where a table of keys belongs, which would be read as the values of the keys in their order, and numbers
/// of a policy that are none: its settings are read by way of JSON, which has no form of them.
///
/// # Errors
///
/// Names the key, what was found, and what belongs there.
pub(super) fn refuse_wrong_forms(table: &Table) -> Result<(), String> {
    for key in TABLES {
        match value_of(table, key) {
            None | Some(Value::Table(_)) => (),
            Some(found) => return Err(not_a_table(key, found)),
        }
    }
    for key in TABLES_OR_VALUES {
        if let Some(found @ Value::Array(_)) = value_of(table, key) {
            return Err(not_a_table(key, found));
        }
    }
    table
        .get("policy")
        .map_or(Ok(()), |policy| refuse_no_number("policy", policy))
}

fn value_of<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_table()?.get(part))
}

fn not_a_table(key: &str, found: &Value) -> String {
    format!("{key} = {found}: expected a table of keys, as in [{key}]")
}

fn refuse_no_number(key: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Float(number) if !number.is_finite() => {
            Err(format!("{key} = {number}: expected a finite number"))
        }
        Value::Table(table) => table
            .iter()
            .try_for_each(|(below, value)| refuse_no_number(&format!("{key}.{below}"), value)),
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| refuse_no_number(key, value)),
        _ => Ok(()),
    }
}
