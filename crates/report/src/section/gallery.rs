//! Images with their kept, merged and removed patches, block by block.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::Section;
use crate::drawings::{Drawings, key};
use crate::number::{Number, Style};
use crate::passes::{Passes, Seen, Way};
use crate::subject::Subject;

const IMAGES: usize = 6;
/// Panels of an image.
const PANELS: usize = 6;

pub(super) fn gallery(subject: &Subject, drawings: &mut Drawings<'_>) -> Option<Section> {
    let passes = subject.seen()?;
    if passes.seen.iter().all(|seen| seen.layers.is_empty()) {
        return None;
    }
    let chosen = chosen(passes);
    let body = html! {
        p {
            "Images drawn at random, not chosen by their results" ", from " (classes(&chosen)) " of " (passes.class_names.len()) " classes"
            ". " (budget(passes)) " Panels further to the right are after deeper blocks; the first block is block 0. Blocks in which nothing goes have \
            no panel, and of many others some are shown."
        }
        (key())
        // Where there is one panel beside the image, several images stand side by side.
        div.gallery.small[passes.seen[0].layers.len() < 3] { @for seen in chosen { (entry(passes, seen, drawings, PANELS)) } }
    };
    Some(Section::new("gallery", "What the policy keeps", body))
}

/// The budget of the pictures, and the accuracies beside it.
fn budget(passes: &Passes) -> Markup {
    let of = |way: Way| passes.measured.iter().find(|found| found.way == way);
    let percent = |value: f64| Number::computed(value, Style::Percent);
    let (Some(own), Some(dense)) = (of(Way::Own), of(Way::Dense)) else {
        return html! {};
    };
    html! {
        @match own.target {
            Some(share) => { "They are pruned to the budget of " (percent(share)) " of the dense model's FLOPs, the mean over images." },
            None => { "They are pruned as the policy does without a budget: to " (percent(own.flops_share)) " of the dense model's FLOPs." },
        }
        @if let Some((own, dense)) = own.accuracy.zip(dense.accuracy) {
            " On all " (passes.seen.len()) " images, accuracy is " (percent(own)) " pruned and " (percent(dense)) " dense."
        }
    }
}

/// The true class of an image; without a label, the dense model's answer.
fn class(seen: &Seen) -> usize {
    seen.label.unwrap_or(seen.dense.class)
}

/// How many classes these images have.
fn classes(seen: &[&Seen]) -> usize {
    let classes: BTreeSet<usize> = seen.iter().map(|seen| class(seen)).collect();
    classes.len()
}

/// The first of each class, and more where there are few classes.
fn chosen(passes: &Passes) -> Vec<&Seen> {
    let mut classes = BTreeSet::new();
    let (first, rest): (Vec<&Seen>, Vec<&Seen>) = passes
        .seen
        .iter()
        .partition(|seen| classes.insert(class(seen)));
    first.into_iter().chain(rest).take(IMAGES).collect()
}

/// An image with its answers and its patches after some of the blocks.
pub(super) fn entry(
    passes: &Passes,
    seen: &Seen,
    drawings: &mut Drawings<'_>,
    panels: usize,
) -> Markup {
    html! {
        div {
            p.says { (says(passes, seen)) }
            (drawings.strip(seen, panels))
        }
    }
}

/// The answers for an image, in words.
fn says(passes: &Passes, seen: &Seen) -> Markup {
    let class = |class: usize| passes.class(class);
    let percent = |value: f64| Number::computed(value, Style::Percent);
    let colour = |is_right: Option<bool>| match is_right {
        Some(true) => "good",
        Some(false) => "bad",
        None => "",
    };
    html! {
        @if let Some(label) = seen.label { b { (class(label)) } ". " }
        "Pruned: " span class=(colour(seen.pruned_is_right())) { (class(seen.pruned.class)) } ", " (percent(seen.pruned.probability))
        "; dense: " span class=(colour(seen.dense_is_right())) { (class(seen.dense.class)) } ", " (percent(seen.dense.probability))
        "; FLOPs " (percent(seen.flops_share)) ". "
        span.dim { (seen.name) }
    }
}
