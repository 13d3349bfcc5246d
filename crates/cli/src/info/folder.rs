//! What `aptvit info --run` says of a folder: a run, or what was exported or pruned.

use std::path::Path;

use anyhow::Result;
use apt_inference::Export;
use apt_rl_trainer::RunFolder;
use apt_vit_model::{printable, printable_text};
use burn::tensor::Device;
use serde_json::{Value, json};

use super::sizing::sizing;
use crate::End;
use crate::global::Global;
use crate::table::{percent, table};

/// Names of classes that are listed, at most.
const SHOWN: usize = 100;

pub fn describe(folder: &Path, global: &Global) -> Result<End> {
    if Export::is_in(folder) {
        exported(folder, global)
    } else {
        run(&RunFolder::open(folder)?, global)
    }
}

fn exported(folder: &Path, global: &Global) -> Result<End> {
    let (_, found) = Export::open(folder, Default::default(), &Device::default())?;
    if global.json {
        println!("{}", json!(found));
        return Ok(End::Done);
    }
    let description = &found.description;
    let model = &description.model;
    let mut rows = table(&[&printable(folder), ""]);
    let mut row = |name: &str, value: &str| {
        rows.add_row([name, value]);
    };
    row("checkpoint", &found.checkpoint);
    row(
        "width, blocks, heads, MLP",
        &format!(
            "{}, {}, {}, {}",
            model.hidden_size, model.num_layers, model.num_heads, model.mlp_dim
        ),
    );
    row(
        "image, patch",
        &format!("{}, {}", model.image_size, model.patch_size),
    );
    row("computed in", description.dtype.name());
    row(
        "pictures",
        &sizing(description.normalization, description.transform),
    );
    row("policy", description.policy.name());
    if let Value::Object(settings) = json!(description.policy) {
        for (key, value) in settings.iter().filter(|(key, _)| *key != "name") {
            row(&format!("policy.{key}"), &value.to_string());
        }
    }
    for budget in &found.budgets.0 {
        row(
            &format!("budget {}", budget.target_flops),
            &format!(
                "{} of the FLOPs, fitted on {} images",
                percent(budget.flops_share),
                budget.images
            ),
        );
    }
    println!("{rows}");
    println!("classes: {}", listed(&description.class_names));
    Ok(End::Done)
}

/// The names, or where they are many the first of them.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(|name| printable_text(name));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

fn run(run: &RunFolder, global: &Global) -> Result<End> {
    let checkpoints: Vec<String> = run
        .checkpoints()
        .all()?
        .iter()
        .map(|set| set.name())
        .collect();
    let summary = run.summary()?;
    if global.json {
        println!(
            "{}",
            json!({
                "config": run.config,
                "run": run.description(),
                "checkpoints": checkpoints,
                "summary": summary,
            })
        );
        return Ok(End::Done);
    }
    println!("{}", run.config.to_toml()?);
    println!("classes: {}", listed(&run.description().class_names));
    println!("checkpoints: {}", checkpoints.join(", "));
    if run.checkpoints().is_slim() {
        println!("slim: it has weights alone, and cannot be trained on");
    }
    match &summary {
        None => println!("not finished: continue it with aptvit train --resume"),
        Some(summary) => {
            let figure = |key: &str| percent(summary[key].as_f64().unwrap_or(f64::NAN));
            println!(
                "test images: {} dense, {} pruned with {} of the FLOPs",
                figure("dense_accuracy"),
                figure("pruned_accuracy"),
                figure("flops_share")
            );
        }
    }
    Ok(End::Done)
}
