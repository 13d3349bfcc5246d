//! Commands to use the folder with.

use maud::html;

use super::Section;
use crate::folder::Kind;
use crate::shell::quoted;
use crate::subject::Subject;
use crate::training::RUNS;

pub(super) fn usage(subject: &Subject) -> Option<Section> {
    let folder = &subject.folder;
    let path = quoted(&folder.path);
    let training = match &folder.training {
        Some(training) => quoted(&folder.path.join(&training.folder)),
        None => format!("{path}/{RUNS}/NAME"),
    };
    let commands = match folder.kind {
        Kind::Sweep => vec![
            (
                format!("aptvit report {training}"),
                "the page of one of the trainings, with images",
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
