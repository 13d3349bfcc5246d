//! Where pruning changed the answer.

use maud::html;

use super::Section;
use super::gallery::entry;
use crate::drawings::Drawings;
use crate::number::{Number, Style};
use crate::passes::Seen;
use crate::subject::Subject;

const IMAGES: usize = 6;
const PANELS: usize = 3;

pub(super) fn disagreements(subject: &Subject, drawings: &mut Drawings<'_>) -> Option<Section> {
    let passes = subject.seen()?;
    if passes.seen.iter().all(|seen| seen.layers.is_empty()) {
        return None;
    }
    let mut changed: Vec<&Seen> = passes.seen.iter().filter(|seen| !seen.agrees()).collect();
    changed.sort_by(|a, b| b.kl.total_cmp(&a.kl));
    let whole = |count: usize| Number::computed(count as f64, Style::Whole);
    let count = |dense: bool, pruned: bool| {
        let is = |seen: &&&Seen| {
            seen.dense_is_right() == Some(dense) && seen.pruned_is_right() == Some(pruned)
        };
        whole(changed.iter().filter(is).count())
    };
    let body = html! {
        @if changed.is_empty() {
            p { "Pruned and dense answers are the same on all " (whole(passes.seen.len())) " images." }
        } @else { p {
            "Pruned and dense answers differ on " (whole(changed.len())) " of " (whole(passes.seen.len())) " images"
            @if passes.labelled {
                ": on " (count(true, false)) " pruning made a right answer wrong, on " (count(false, true))
                " a wrong one right, and on " (count(false, false)) " both are wrong in different ways"
            }
            ". "
            @if changed.len() > IMAGES { "Those with the largest KL(dense || pruned):" }
        } }
        div.gallery.small { @for seen in changed.iter().take(IMAGES) { (entry(passes, seen, drawings, PANELS)) } }
    };
    Some(Section::new(
        "disagreements",
        "Where pruning changes the answer",
        body,
    ))
}
