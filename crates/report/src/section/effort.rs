//! Which images cost the policy many FLOPs, and which cost few.

use maud::{Markup, html};

use super::Section;
use super::gallery::entry;
use crate::drawings::Drawings;
use crate::number::{Number, Style, or_dash};
use crate::passes::{Passes, Seen};
use crate::subject::Subject;

/// Images of each kind.
const IMAGES: usize = 4;
const PANELS: usize = 3;
/// Shares less than this apart count as equal.
const EQUAL: f64 = 0.002;
/// Groups of images, from the cheapest to the costliest.
const GROUPS: usize = 4;

pub(super) fn effort(subject: &Subject, drawings: &mut Drawings<'_>) -> Option<Section> {
    let passes = subject.seen()?;
    if passes.seen.iter().all(|seen| seen.layers.is_empty()) {
        return None;
    }
    let mut by_cost: Vec<&Seen> = passes.seen.iter().collect();
    by_cost.sort_by(|a, b| a.flops_share.total_cmp(&b.flops_share));
    let (first, last) = (by_cost.first()?, by_cost.last()?);
    let percent = |value: f64| Number::computed(value, Style::Percent);
    let body = if last.flops_share - first.flops_share < EQUAL {
        html! {
            p { "This policy spends the same on every image: " (percent(first.flops_share)) " of the dense FLOPs. Policies with "
                 code { "adaptive = true" } ", and " code { "allocate" } " and " code { "regression" } ", decide for each image." }
        }
    } else {
        html! {
            p { "From " (percent(first.flops_share)) " to " (percent(last.flops_share)) " of the dense FLOPs an image. \
                 If the policy decides well, cheap images are easy for the dense model, and costly ones are hard."
                @if last.flops_share > 1.0 { " An image from which little is removed can cost more than 100%: the policy's own FLOPs count, too." }
            }
            (quarters(passes, &by_cost))
            h3 { "The cheapest" }
            div.gallery.small { @for seen in by_cost.iter().take(IMAGES) { (entry(passes, seen, drawings, PANELS)) } }
            h3 { "The costliest" }
            div.gallery.small { @for seen in by_cost.iter().rev().take(IMAGES) { (entry(passes, seen, drawings, PANELS)) } }
        }
    };
    Some(Section::new("effort", "Easy and hard images", body))
}

/// A row for each quarter of the images.
fn quarters(passes: &Passes, by_cost: &[&Seen]) -> Markup {
    let size = by_cost.len().div_ceil(GROUPS).max(1);
    let percent = |value: f64| Number::computed(value, Style::Percent);
    let share = |group: &[&Seen], is: &dyn Fn(&Seen) -> bool| {
        let count = group.iter().filter(|seen| is(seen)).count();
        percent(count as f64 / group.len() as f64)
    };
    let sure = |group: &[&Seen]| {
        group.iter().map(|seen| seen.dense.probability).sum::<f64>() / group.len() as f64
    };
    html! {
        div.scroll { table {
            thead { tr {
                th { "images by FLOPs" } th { "FLOPs share" } th { "dense model's probability" } th { "equal answers" }
                th { "accuracy, dense" } th { "accuracy, pruned" }
            } }
            tbody { @for (index, group) in by_cost.chunks(size).enumerate() { tr {
                td { (group.len()) " " (["cheapest", "cheaper", "costlier", "costliest"][index.min(3)]) }
                td { (percent(group[0].flops_share)) " to " (percent(group[group.len() - 1].flops_share)) }
                td { (percent(sure(group))) }
                td { (share(group, &|seen| seen.agrees())) }
                td { (or_dash(passes.labelled.then(|| share(group, &|seen| seen.dense_is_right() == Some(true))))) }
                td { (or_dash(passes.labelled.then(|| share(group, &|seen| seen.pruned_is_right() == Some(true))))) }
            } } }
        } }
    }
}
