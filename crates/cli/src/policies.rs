//! The list of policies: what the registries say, for people and as JSON.

use apt_pruning_agent::{BudgetUse, Meaning, policies};
use apt_rl_trainer::algorithm::algorithms;
use serde_json::{Map, Value, json};

use crate::global::Global;

pub fn list(global: &Global) {
    if !global.json {
        print!("{}", in_markdown());
        return;
    }
    let of_policies = policies().into_iter().map(|entry| {
        json!({
            "name": entry.name,
            "summary": entry.summary,
            "settings": settings(entry.meanings, &entry.defaults()),
            "algorithms": entry.algorithms,
            "for_frozen": entry.for_frozen,
            "budget": entry.budget,
        })
    });
    let of_algorithms = algorithms().into_iter().map(|entry| {
        json!({
            "name": entry.name,
            "summary": entry.summary,
            "settings": settings(entry.meanings, &entry.defaults()),
        })
    });
    let policies: Vec<Value> = of_policies.collect();
    let algorithms: Vec<Value> = of_algorithms.collect();
    println!(
        "{}",
        json!({ "policies": policies, "algorithms": algorithms })
    );
}

fn settings(meanings: &[Meaning], defaults: &Map<String, Value>) -> Vec<Value> {
    let settings = meanings.iter().map(|Meaning { key, meaning }| {
        json!({ "key": key, "default": defaults.get(*key), "meaning": meaning })
    });
    settings.collect()
}

/// The same text that stands in `docs/policies.md`.
fn in_markdown() -> String {
    let mut text = String::from("# Policies\n\n");
    text += "`policy = \"NAME\"`, or a table `[policy]` with `name` and the policy's own keys; `--policy NAME`.\n";
    for entry in policies() {
        text += &format!("\n## `{}`\n\n{}.", entry.name, capital(entry.summary));
        if entry.for_frozen {
            text += " `aptvit train` refuses it.";
        }
        text += match entry.budget {
            BudgetUse::Needed => "",
            BudgetUse::Possible => " It prunes with a budget and without.",
            BudgetUse::Impossible => " It takes no budget.",
        };
        text += "\n";
        text += &table(entry.meanings, &entry.defaults());
        if let Some((best, others)) = entry.algorithms.split_first() {
            text += &format!("\nIt learns by `{best}`");
            if !others.is_empty() {
                let others: Vec<String> = others.iter().map(|name| format!("`{name}`")).collect();
                text += &format!(", or by {}", others.join(" or "));
            }
            text += ".\n";
        }
    }
    text += "\n# Algorithms\n\n`policy.algorithm = \"NAME\"`, or a table `[policy.algorithm]` with `name` and the algorithm's own keys.\n";
    for entry in algorithms() {
        text += &format!("\n## `{}`\n\n{}.\n", entry.name, capital(entry.summary));
        text += &table(entry.meanings, &entry.defaults());
    }
    text
}

fn table(meanings: &[Meaning], defaults: &Map<String, Value>) -> String {
    if meanings.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n| key | default | meaning |\n| --- | --- | --- |\n");
    for Meaning { key, meaning } in meanings {
        let default = defaults.get(*key).map_or(String::new(), shown);
        text += &format!("| `{key}` | {default} | {meaning} |\n");
    }
    text
}

/// A default as a config writes it; numbers of 32 bits have digits that nobody wrote.
fn shown(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() => format!("{}", number as f32),
        _ => value.to_string(),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_have_what_the_registries_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policies.md");
        if std::env::var_os("APT_WRITE_DOCS").is_some() {
            std::fs::write(path, in_markdown()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == in_markdown(),
            "docs/policies.md is not what the registries say: set APT_WRITE_DOCS=1 to write it anew"
        );
    }
}
