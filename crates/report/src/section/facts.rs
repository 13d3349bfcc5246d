//! What was trained, on what, and with which versions.

use apt_vit_model::{VitConfig, vit_flops};
use maud::{Markup, Render, html};
use serde_json::Value;

use super::Section;
use crate::document::Document;
use crate::folder::{CONFIG, Folder, Kind};
use crate::number::{Number, Style};
use crate::passes::short;
use crate::subject::Subject;

/// Classes that are named, at most.
const NAMED: usize = 20;

/// A row: what, and what it is.
type Row = (&'static str, Option<Markup>);

pub(super) fn facts(subject: &Subject) -> Option<Section> {
    let folder = &subject.folder;
    let rows = match folder.kind {
        Kind::Sweep => of_sweep(folder),
        Kind::Run | Kind::Model => of_model(folder),
    };
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|(_, what)| what.is_some())
        .collect();
    if rows.is_empty() {
        return None;
    }
    let body = html! {
        div.scroll { table.facts { tbody {
            @for (name, what) in rows { tr { th scope="row" { (name) } td { @if let Some(what) = what { (what) } } } }
        } } }
    };
    let title = match folder.kind {
        Kind::Run => "What was trained, and how",
        Kind::Model => "What the model is",
        Kind::Sweep => "What was compared, and how",
    };
    Some(Section::new("facts", title, body))
}

fn of_model(folder: &Folder) -> Vec<Row> {
    let (description, summary, pruning) = (&folder.description, &folder.summary, &folder.pruning);
    let config = config(folder);
    let number = |document: &Document, pointer: &str, style| {
        document.number(pointer, style).map(|n| n.render())
    };
    let text =
        |document: &Document, pointer: &str| document.text(pointer).map(|text| html! { (text) });
    vec![
        ("model", model(description)),
        ("FLOPs of an image, dense", dense_flops(description)),
        ("parameters", number(summary, "/parameters", Style::Count).map(|n| html! { (n) ", the policy's included" })),
        ("pretrained weights", text(&config, "/model/pretrained").or_else(|| text(pruning, "/model"))),
        ("policy", with_settings(&description.value["policy"])),
        ("learned by", with_settings(&config.value["policy"]["algorithm"])),
        ("budgets", budgets(description)),
        ("images", images(&config, description, pruning)),
        ("classes", classes(description)),
        ("seed", number(summary, "/seed", Style::Whole).or_else(|| number(&config, "/seed", Style::Whole)).or_else(|| number(pruning, "/seed", Style::Whole))),
        ("steps", steps(&config, summary)),
        ("optimiser", optimizer(&config)),
        ("number format", text(description, "/dtype")),
        ("checkpoint", text(summary, "/checkpoint").or_else(|| text(description, "/checkpoint"))),
        ("device", text(summary, "/device").map(|device| html! {
            (device) @if let Some(threads) = number(summary, "/threads", Style::Whole) { ", " (threads) " threads" }
        })),
        ("peak memory", number(summary, "/peak_memory", Style::Memory)),
        ("time", number(summary, "/seconds", Style::Duration).or_else(|| number(pruning, "/seconds", Style::Duration))),
        ("versions", text(summary, "/version").or_else(|| text(pruning, "/version")).map(|version| html! {
            "aptvit " (version) @if let Some(burn) = text(summary, "/burn_version") { ", Burn " (burn) }
        })),
    ]
}

/// The config, as a document with its keys as pointers.
fn config(folder: &Folder) -> Document {
    Document::toml(CONFIG, folder.config.as_deref().unwrap_or_default())
}

fn model(description: &Document) -> Option<Markup> {
    let whole = |key: &str| description.number(&format!("/model/{key}"), Style::Whole);
    let (blocks, hidden, heads, patch) = (
        whole("num_layers")?,
        whole("hidden_size")?,
        whole("num_heads")?,
        whole("patch_size")?,
    );
    let size = match whole("image_size") {
        Some(side) => html! { (side) " x " (side) },
        None => html! {
            @if let Some(height) = whole("image_size/height") { (height) } " x "
            @if let Some(width) = whole("image_size/width") { (width) }
        },
    };
    Some(html! {
        "Vision Transformer of " (blocks) " blocks, hidden size " (hidden) ", " (heads) " heads, on images of " (size)
        " pixels in patches of " (patch) " x " (patch)
    })
}

/// Counted from the model's sizes.
fn dense_flops(description: &Document) -> Option<Markup> {
    let sizes: VitConfig = serde_json::from_value(description.value.get("model")?.clone()).ok()?;
    sizes.validate().ok()?;
    let flops = vit_flops(&sizes, &[], 0) as f64;
    Some(
        html! { (Number::computed(flops, Style::Count)) ", multiplications and additions counted as two" },
    )
}

/// A policy or an algorithm: its name, and its settings.
fn with_settings(value: &Value) -> Option<Markup> {
    if let Some(name) = value.as_str() {
        return Some(html! { (name) });
    }
    let fields = value.as_object()?;
    let name = fields.get("name")?.as_str()?;
    let others: Vec<String> = fields
        .iter()
        .filter(|(key, _)| *key != "name")
        .map(|(key, value)| match value.as_f64() {
            Some(number) => format!("{key} = {}", Style::Shortest.text(number)),
            None => format!("{key} = {value}"),
        })
        .collect();
    Some(html! { b { (name) } @if !others.is_empty() { " (" (others.join(", ")) ")" } })
}

fn budgets(description: &Document) -> Option<Markup> {
    let count = description.items("/flops").len();
    if count == 0 {
        return description
            .is_there()
            .then(|| html! { "none: the policy alone decides how much it removes" });
    }
    let shares = (0..count)
        .filter_map(|index| description.number(&format!("/flops/{index}"), Style::Percent));
    let shares: Vec<Number> = shares.collect();
    Some(html! {
        @for (index, share) in shares.iter().enumerate() { @if index > 0 { ", " } (share) }
        " of the dense model's FLOPs"
    })
}

fn images(config: &Document, description: &Document, pruning: &Document) -> Option<Markup> {
    let path = description.text("/data").or_else(|| pruning.text("/data"));
    let source = config.text("/data/source");
    let counted =
        ["train", "test"].map(|split| config.number(&format!("/data/{split}"), Style::Whole));
    if path.is_none() && source.is_none() {
        return None;
    }
    Some(html! {
        @if let Some(source) = source { (source) }
        @if let Some(path) = path { @if source.is_some() { ", " } (path) }
        @if let [Some(train), Some(test)] = counted { ": " (train) " to train, " (test) " to test" }
        @if let Some(learned) = pruning.number("/learned_from", Style::Whole) { ": " (learned) " learned from" }
        @if let Some(held_out) = pruning.number("/held_out", Style::Whole) { ", " (held_out) " held out" }
    })
}

fn classes(description: &Document) -> Option<Markup> {
    let names = description.items("/class_names").iter();
    let names: Vec<&str> = names.filter_map(Value::as_str).map(short).collect();
    let some = names[..names.len().min(NAMED)].join(", ");
    (!names.is_empty()).then(|| {
        html! {
            (names.len()) ": " (some) @if names.len() > NAMED { ", ..." }
        }
    })
}

fn steps(config: &Document, summary: &Document) -> Option<Markup> {
    let done = summary.number("/steps", Style::Whole);
    let planned = config.number("/train/steps", Style::Whole);
    let batch = config.number("/train/batch_size", Style::Whole);
    let passes = summary.number("/image_passes", Style::Count);
    let steps = done.or(planned)?;
    Some(html! {
        (steps) @if let Some(batch) = batch { ", batches of " (batch) } @if let Some(passes) = passes { ", " (passes) " image passes" }
    })
}

fn optimizer(config: &Document) -> Option<Markup> {
    let name = config.text("/optimizer/name")?;
    let rate = config.number("/optimizer/learning_rate", Style::Shortest);
    let decay = config.text("/schedule/decay");
    Some(html! {
        (name) @if let Some(rate) = rate { ", learning rate " (rate) } @if let Some(decay) = decay { ", " (decay) " decay" }
    })
}

fn of_sweep(folder: &Folder) -> Vec<Row> {
    let sweep = &folder.sweep;
    let training = folder.training.clone().unwrap_or_default();
    let (description, config) = (&training.description, &training.config);
    let text = |pointer: &str| sweep.text(pointer).map(|text| html! { (text) });
    let policies = sweep.value["policies"].as_object();
    let overrides: Vec<&str> = sweep
        .items("/overrides")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    vec![
        ("model", model(description)),
        ("FLOPs of an image, dense", dense_flops(description)),
        ("images", images(config, description, &folder.pruning)),
        ("classes", classes(description)),
        ("start", text("/start").map(|start| html! { (start) ", its best dense checkpoint" })),
        ("image passes", sweep.number("/passes", Style::Whole).map(|n| html! { (n) " of each training" })),
        ("optimiser", optimizer(config)),
        ("measured on", text("/measured_on").map(|on| html! { (on) " images" })),
        ("settings of all trainings", (!overrides.is_empty()).then(|| html! { code { (overrides.join(", ")) } })),
        ("policies", policies.map(|policies| html! {
            @for (name, settings) in policies {
                @let settings = settings.as_array().map_or(String::new(), |all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
                div { b { (name) } @if !settings.is_empty() { ": " code { (settings) } } }
            }
        })),
    ]
}
