//! `aptvit memory list`

use std::collections::BTreeMap;

use anyhow::Result;
use apt_memory::{Label, open};
use apt_vit_model::printable_text;
use clap::Parser;
use serde_json::json;

use super::MemoryArgs;
use crate::global::Global;
use crate::table::table;
use crate::{End, device};

#[derive(Debug, Parser)]
pub struct List {
    #[command(flatten)]
    memory: MemoryArgs,
    /// Show each image with its id instead of a line for each class
    #[arg(long)]
    entries: bool,
    /// Of this class alone
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
}

pub fn run(args: &List, global: &Global) -> Result<End> {
    let store = open(&args.memory.memory, &device::open())?;
    let mut labels = store.list()?;
    if let Some(class) = &args.class {
        labels.retain(|label| label.class == *class);
    }
    let judge = &store.about().judge;
    if global.json {
        let entries = args.entries.then_some(&labels);
        let listed = json!({
            "memory": args.memory.memory,
            "entries": labels.len(),
            "features": store.about().width(),
            "neighbors": judge.neighbors,
            "temperature": judge.temperature,
            "classes": counts(&labels),
            "images": entries,
        });
        println!("{listed}");
        return Ok(End::Done);
    }
    if args.entries {
        let mut rows = table(&["class", "id", "from"]);
        for label in &labels {
            let [class, source] = [&label.class, &label.source].map(|text| printable_text(text));
            rows.add_row([class, label.id.clone(), source]);
        }
        println!("{rows}");
    } else {
        let mut rows = table(&["class", "images"]);
        for (class, count) in counts(&labels) {
            rows.add_row([printable_text(class), count.to_string()]);
        }
        println!("{rows}");
    }
    println!(
        "{} images, {} features each; its agent listens to {} neighbours",
        labels.len(),
        store.about().width(),
        judge.neighbors
    );
    Ok(End::Done)
}

fn counts(labels: &[Label]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for label in labels {
        *counts.entry(label.class.as_str()).or_default() += 1;
    }
    counts
}
