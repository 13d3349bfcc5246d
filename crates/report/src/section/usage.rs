//! Commands to use the folder with.

use apt_vit_model::printable;
use maud::html;

use super::Section;
use crate::folder::Kind;
use crate::subject::Subject;

pub(super) fn usage(subject: &Subject) -> Option<Section> {
    let folder = &subject.folder;
    let path = quoted(&printable(&folder.path));
    let commands = match folder.kind {
        Kind::Sweep => vec![
            (
                format!("aptvit report {path}/runs/NAME"),
                "the page of one of the trainings",
            ),
            (
                format!("aptvit sweep --out {path} --report-only --reference tome"),
                "the comparisons with another policy",
            ),
        ],
        _ if !folder.description.is_there() => return None,
        Kind::Run if !folder.summary.is_there() => vec![(
            format!("aptvit train --resume {path}"),
            "go on with the training",
        )],
        Kind::Run | Kind::Model => vec![
            (
                format!("aptvit infer --run {path} cat.jpg --visualize pictures/"),
                "classify a picture, and see what was removed",
            ),
            (
                format!(
                    "aptvit eval --run {path}{}",
                    if folder.kind == Kind::Run {
                        ""
                    } else {
                        " --data IMAGES"
                    }
                ),
                "measure it on all test images",
            ),
            (
                format!("aptvit serve --model mine={path}"),
                "answer over HTTP",
            ),
            (
                format!("aptvit report {path} --images 1000"),
                "this page, with more images",
            ),
        ],
    };
    let body = html! {
        div.scroll { table.facts { tbody {
            @for (command, what) in commands { tr { td { code { (command) } } td { (what) } } }
        } } }
    };
    Some(Section::new("usage", "Use it", body))
}

/// Quotes a path for a shell.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@".contains(c);
    if !path.is_empty() && path.chars().all(plain) {
        return path.into();
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}
