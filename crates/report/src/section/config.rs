//! The config, and how to do it again.

use maud::html;

use super::Section;
use crate::folder::Kind;
use crate::subject::Subject;

pub(super) fn config(subject: &Subject) -> Option<Section> {
    let folder = &subject.folder;
    let shown = match (folder.kind, &folder.config) {
        (Kind::Run, Some(config)) => config.clone(),
        (Kind::Sweep, _) if folder.sweep.is_there() => pretty(&folder.sweep.value),
        (Kind::Model, _) if folder.description.is_there() => {
            let mut value = folder.description.value.clone();
            if let Some(fields) = value.as_object_mut() {
                // Hundreds of lines that say nothing to a reader.
                fields.remove("class_names");
                fields.remove("checksums");
            }
            pretty(&value)
        }
        _ => return None,
    };
    let body = html! {
        @if folder.kind == Kind::Run {
            p.note { "As the training used it, defaults included: " code { "aptvit train --config config.toml" } " does the same again." }
        }
        details {
            summary { "Show all settings" }
            pre { code { (shown) } }
        }
    };
    Some(Section::new("config", "Settings", body))
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
