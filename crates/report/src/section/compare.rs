//! Several folders side by side: their numbers, their curves, and where their settings differ.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};
use toml::Value;

use crate::chart::{Chart, Series};
use crate::folder::Folder;
use crate::number::{Number, Style, or_dash};
use crate::passes::Way;
use crate::subject::Subject;

/// A row of the table: what it is called, its place in `summary.json`, and how it is written.
const ROWS: [(&str, &str, Style); 8] = [
    ("accuracy, pruned", "/pruned_accuracy", Style::Percent),
    ("accuracy, dense", "/dense_accuracy", Style::Percent),
    ("FLOPs share", "/flops_share", Style::Percent),
    (
        "time an image, pruned",
        "/images_per_s/pruned",
        Style::TimePerImage,
    ),
    (
        "time an image, dense",
        "/images_per_s/dense",
        Style::TimePerImage,
    ),
    ("image passes of training", "/image_passes", Style::Count),
    ("time of training", "/seconds", Style::Duration),
    ("test images", "/test_images", Style::Whole),
];

/// All folders on one page; each has its sections below.
pub fn compare(subjects: &[Subject]) -> Markup {
    let folders: Vec<&Folder> = subjects.iter().map(|subject| &subject.folder).collect();
    html! {
        h2 id="side" { "Side by side" }
        (numbers(subjects))
        div.charts { @for chart in curves(&folders) { (chart.figure()) } }
        h2 id="differences" { "Where the settings differ" }
        (differences(&folders))
    }
}

fn numbers(subjects: &[Subject]) -> Markup {
    let summaries = || subjects.iter().map(|subject| &subject.folder.summary);
    let passes = |way: Way| {
        subjects.iter().map(move |subject| {
            let found = subject
                .seen()?
                .measured
                .iter()
                .find(|found| found.way == way)?;
            let percent = |value: f64| Number::computed(value, Style::Percent);
            Some((found.accuracy.map(percent), percent(found.equal_answers)))
        })
    };
    let measured: Vec<_> = passes(Way::Own).collect();
    html! {
        div.scroll { table {
            thead { tr { th {} @for subject in subjects { th scope="col" { (subject.folder.name) } } } }
            tbody {
                tr {
                    th scope="row" { "policy" }
                    @for subject in subjects { td { (subject.folder.policy().unwrap_or("–")) } }
                }
                @for (name, pointer, style) in ROWS {
                    @if summaries().any(|summary| summary.number(pointer, style).is_some()) {
                        tr {
                            th scope="row" { (name) }
                            @for summary in summaries() { td { (or_dash(summary.number(pointer, style))) } }
                        }
                    }
                }
                @if measured.iter().any(Option::is_some) {
                    tr {
                        th scope="row" { "equal answers, measured here" }
                        @for found in &measured { td { (or_dash(found.as_ref().map(|found| found.1.clone()))) } }
                    }
                    tr {
                        th scope="row" { "accuracy pruned, measured here" }
                        @for found in &measured { td { (or_dash(found.as_ref().and_then(|found| found.0.clone()))) } }
                    }
                }
            }
        } }
    }
}

/// The curves of all of them.
fn curves(folders: &[&Folder]) -> Vec<Chart> {
    let series = |name: &str, factor: f64| -> Vec<Series> {
        let of = |folder: &&Folder| {
            let points = folder.metrics.of_epochs("valid", name).into_iter();
            let points = points.map(|(step, value)| (step, factor * value));
            Series::marked(&folder.name, points.collect())
        };
        folders.iter().map(of).collect()
    };
    let charts = [
        Chart::over_steps(
            "Accuracy pruned, held-out images (%)",
            series("pruned_accuracy", 100.0),
        ),
        Chart::over_steps(
            "Accuracy dense, held-out images (%)",
            series("dense_accuracy", 100.0),
        ),
        Chart::over_steps("Loss, held-out images", series("loss", 1.0)),
    ];
    charts.into_iter().flatten().collect()
}

/// The settings that differ between the configs.
fn differences(folders: &[&Folder]) -> Markup {
    let configs: Vec<Option<BTreeMap<String, String>>> =
        folders.iter().map(|folder| settings(folder)).collect();
    let known: Vec<&BTreeMap<String, String>> = configs.iter().flatten().collect();
    if known.len() < 2 {
        return html! { p.dim { "Fewer than two of these folders have a config that can be read." } };
    }
    let keys: BTreeSet<&String> = known.iter().flat_map(|config| config.keys()).collect();
    let differ = |key: &&&String| {
        known
            .iter()
            .any(|config| config.get(**key) != known[0].get(**key))
    };
    let keys: Vec<&&String> = keys.iter().filter(differ).collect();
    html! {
        @if keys.is_empty() { p { "All their settings are the same." } }
        @else {
            div.scroll { table.wrap {
                thead { tr { th { "setting" } @for folder in folders { th scope="col" { (folder.name) } } } }
                tbody { @for key in keys { tr {
                    th scope="row" { code { (key) } }
                    @for config in &configs {
                        td { @match config.as_ref().and_then(|config| config.get(*key)) {
                            Some(value) => code { (value) },
                            None => span.dim { "–" },
                        } }
                    }
                } } }
            } }
        }
    }
}

/// A config's keys with their values.
fn settings(folder: &Folder) -> Option<BTreeMap<String, String>> {
    let value: Value = toml::from_str(folder.config.as_deref()?).ok()?;
    let mut settings = BTreeMap::new();
    flatten(String::new(), &value, &mut settings);
    Some(settings)
}

fn flatten(key: String, value: &Value, into: &mut BTreeMap<String, String>) {
    let Value::Table(table) = value else {
        into.insert(key, value.to_string());
        return;
    };
    for (name, value) in table {
        let key = if key.is_empty() {
            name.clone()
        } else {
            format!("{key}.{name}")
        };
        flatten(key, value, into);
    }
}
