//! Where the pruned model is sure and wrong.

use maud::html;

use super::Section;
use super::gallery::entry;
use crate::drawings::Drawings;
use crate::number::{Number, Style};
use crate::passes::Seen;
use crate::subject::Subject;

const IMAGES: usize = 6;
const PANELS: usize = 3;

pub(super) fn mistakes(subject: &Subject, drawings: &mut Drawings<'_>) -> Option<Section> {
    let passes = subject.seen().filter(|passes| passes.labelled)?;
    let wrong = passes
        .seen
        .iter()
        .filter(|seen| seen.pruned_is_right() == Some(false));
    let mut wrong: Vec<&Seen> = wrong.collect();
    wrong.sort_by(|a, b| b.pruned.probability.total_cmp(&a.pruned.probability));
    let both = wrong
        .iter()
        .filter(|seen| seen.dense_is_right() == Some(false))
        .count();
    let whole = |count: usize| Number::computed(count as f64, Style::Whole);
    let body = html! {
        p {
            "The pruned model is wrong on " (whole(wrong.len())) " of " (whole(passes.seen.len())) " images; on " (whole(both))
            " of these the dense model is wrong, too. "
            @if wrong.len() > IMAGES { "Those of which it is surest:" }
        }
        div.gallery.small { @for seen in wrong.iter().take(IMAGES) { (entry(passes, seen, drawings, PANELS)) } }
    };
    Some(Section::new("mistakes", "The surest mistakes", body))
}
