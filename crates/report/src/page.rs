//! The page: its head, what is missing, the sections, and how it was made.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::drawings::{Drawings, patterns};
use crate::section::{Section, compare, headline, sections};
use crate::style::style;
use crate::subject::Subject;

/// The page about these folders, as HTML.
pub fn page(subjects: &[Subject]) -> String {
    let names: Vec<&str> = subjects
        .iter()
        .map(|subject| subject.folder.name.as_str())
        .collect();
    let title = names.join(", ");
    let body = match subjects {
        [subject] => one(subject),
        several => many(several),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Nothing is loaded, and nothing runs.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'";
                title { (title) " - aptvit report" }
                style { (PreEscaped(style())) }
            }
            body {
                (patterns())
                (body)
                footer {
                    "Made by aptvit " (env!("CARGO_PKG_VERSION")) ". Point at a number to see its exact value and the file that it was read from."
                }
            }
        }
    };
    page.into_string()
}

fn one(subject: &Subject) -> Markup {
    let mut drawings = Drawings::new(subject.seen(), "i");
    let sections = sections(subject, &mut drawings);
    html! {
        header {
            p.kind { "aptvit report: " (subject.folder.noun()) }
            h1 { (subject.folder.name) }
        }
        main {
            (missing(subject))
            (headline(subject))
            nav aria-label="Sections" { @for section in &sections { a href={ "#" (section.id) } { (section.title) } } }
            @for section in &sections { (whole(section, 2, "")) }
            (drawings.images())
        }
    }
}

fn many(subjects: &[Subject]) -> Markup {
    html! {
        header {
            p.kind { "aptvit report: " (subjects.len()) " folders side by side" }
            h1 { @for (index, subject) in subjects.iter().enumerate() { @if index > 0 { ", " } (subject.folder.name) } }
        }
        main {
            nav aria-label="Folders" {
                a href="#side" { "Side by side" }
                a href="#differences" { "Differences" }
                @for (index, subject) in subjects.iter().enumerate() { a href={ "#folder" (index) } { (subject.folder.name) } }
            }
            (compare(subjects))
            @for (index, subject) in subjects.iter().enumerate() {
                @let mut drawings = Drawings::new(subject.seen(), format!("i{index}-"));
                @let sections = sections(subject, &mut drawings);
                h2 id={ "folder" (index) } { (subject.folder.name) }
                p.kind { (subject.folder.noun()) }
                (missing(subject))
                (headline(subject))
                details {
                    summary { "All about " (subject.folder.name) }
                    @for section in &sections { (whole(section, 3, &format!("{index}-"))) }
                }
                (drawings.images())
            }
        }
    }
}

fn whole(section: &Section, level: usize, prefix: &str) -> Markup {
    html! {
        section id={ (prefix) (section.id) } {
            @if level == 2 { h2 { (section.title) } } @else { h3 { (section.title) } }
            (section.body)
        }
    }
}

/// What is missing, and why.
fn missing(subject: &Subject) -> Markup {
    let problems = &subject.folder.problems;
    let left_out = subject.passes.as_ref().err();
    html! {
        @if !problems.is_empty() {
            div.missing {
                b { "This folder is not complete." }
                ul { @for problem in problems { li { (problem) } } }
            }
        }
        @if let Some(reason) = left_out {
            p.note { "Without pictures and other measurements on images: " (reason) "." }
        }
    }
}
