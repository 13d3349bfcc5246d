//! What a sweep of policies found.

use apt_rl_trainer::sweep::{
    Against, Cell, CellFolder, Comparison, DENSE, Group, Mean, compare, groups, mean, plot_svg,
};
use maud::{Markup, PreEscaped, html};

use super::Section;
use crate::number::{Number, Style};
use crate::subject::Subject;

pub(super) fn sweep(subject: &Subject) -> Option<Section> {
    let cells = &subject.folder.cells;
    if cells.is_empty() {
        return None;
    }
    let groups = groups(cells);
    let body = html! {
        p.note {
            "Every policy was trained from one start. Means over seeds with the 95% t-interval; FLOPs are counted, the policy's own included; \
             times are measured against the same weights run dense, in turns."
            @if groups.iter().any(|group| group.cells.len() == 2) {
                " Two seeds say little: their interval is 12.7 standard errors to each side. Three or more narrow it."
            }
        }
        (results(&groups))
        @for against in [Against::Flops, Against::Time] { (plot(cells, against)) }
        (comparisons(&groups))
    };
    Some(Section::new("sweep", "The policies side by side", body))
}

/// One cell for each training: cells that differ in their budget alone share a training.
pub(super) fn trainings(cells: &[Cell]) -> impl Iterator<Item = &Cell> {
    let first = |index: usize, cell: &Cell| {
        let before = &cells[..index];
        !before.iter().any(|other| {
            (&other.policy, other.seed, other.train_seconds)
                == (&cell.policy, cell.seed, cell.train_seconds)
        })
    };
    let cells = cells.iter().enumerate();
    cells
        .filter(move |(index, cell)| first(*index, cell))
        .map(|(_, cell)| cell)
}

fn results(groups: &[Group<'_>]) -> Markup {
    // Clearly more accurate than each other policy at its budget.
    let best = |group: &Group<'_>| {
        let mut others = groups.iter().filter(|other| {
            other.target_flops == group.target_flops && other.policy != group.policy
        });
        let is_better = |other: &Group<'_>| {
            let found = compare(&group.cells, &other.cells);
            found.is_some_and(|found| found.low > 0.0)
        };
        group.policy != DENSE && others.clone().count() > 0 && others.all(is_better)
    };
    html! {
        div.scroll { table {
            thead { tr {
                th { "policy" } th { "budget" } th { "seeds" } th { "accuracy" } th { "the same weights dense" } th { "FLOPs share" } th { "times as fast" }
            } }
            tbody { @for group in groups { tr {
                th scope="row" { (group.policy) }
                td { (from_cell(group, group.target_flops, "target_flops", Style::Percent)) }
                td { (group.cells.len()) }
                td.best[best(group)] { (with_interval(group, &accuracy(group), "accuracy")) }
                td { (with_interval(group, &mean(&group.values(|cell| cell.dense_accuracy)), "dense_accuracy")) }
                td { (flops_share(group)) }
                td { (mean_alone(&mean(&group.values(Cell::speed_up)), Style::Digits(2))) }
            } } }
        } }
        p.note { "Bold: more accurate than every other policy at its budget, by paired intervals that exclude 0." }
    }
}

fn accuracy(group: &Group<'_>) -> Mean {
    mean(&group.values(|cell| cell.accuracy))
}

/// A number from the file of the group's first cell.
fn from_cell(group: &Group<'_>, value: f64, key: &str, style: Style) -> Number {
    let from = group.cells.first().map(|cell| {
        let file = CellFolder::new("").cell_path(&cell.policy, cell.target_flops, cell.seed);
        format!("{}#/{key}", file.display())
    });
    Number { value, from, style }
}

/// A mean accuracy with its interval, which ends at 0% and at 100%; with one seed, the number from its cell's file.
fn with_interval(group: &Group<'_>, found: &Mean, key: &str) -> Markup {
    if let [_] = group.cells.as_slice() {
        return html! { (from_cell(group, found.mean, key, Style::Percent)) };
    }
    let percent = |share: f64| Number::computed(share.clamp(0.0, 1.0), Style::Percent);
    html! {
        (percent(found.mean))
        @if let Some(half) = found.half_width {
            " (" (percent(found.mean - half)) " to " (percent(found.mean + half)) ")"
        }
    }
}

/// The mean FLOPs share; with one seed, the number from its cell's file.
fn flops_share(group: &Group<'_>) -> Markup {
    let found = mean(&group.values(|cell| cell.flops_share));
    match group.cells.as_slice() {
        [_] => html! { (from_cell(group, found.mean, "flops_share", Style::Percent)) },
        _ => mean_alone(&found, Style::Percent),
    }
}

fn mean_alone(found: &Mean, style: Style) -> Markup {
    html! {
        (Number::computed(found.mean, style))
        @if let Some(half) = found.half_width { " ± " (Number::computed(half, style)) }
    }
}

fn plot(cells: &[Cell], against: Against) -> Markup {
    let title = match against {
        Against::Flops => "Accuracy against counted FLOPs",
        Against::Time => "Accuracy against measured time",
    };
    html! {
        figure.chart.large role="img" aria-label=(title) {
            @match plot_svg(cells, against) {
                Ok(svg) => (PreEscaped(svg)),
                Err(error) => p.dim { "This plot could not be drawn: " (error) },
            }
        }
    }
}

/// Every policy against the most accurate other one at the same budget, image by image.
fn comparisons(groups: &[Group<'_>]) -> Markup {
    let rows = groups
        .iter()
        .filter(|group| group.policy != DENSE)
        .filter_map(|group| {
            let others = groups.iter().filter(|other| {
                other.target_flops == group.target_flops && other.policy != group.policy
            });
            let others = others.filter(|other| other.policy != DENSE);
            let best = others.max_by(|a, b| accuracy(a).mean.total_cmp(&accuracy(b).mean))?;
            Some((group, best, compare(&group.cells, &best.cells)?))
        });
    let rows: Vec<(&Group<'_>, &Group<'_>, Comparison)> = rows.collect();
    html! {
        @if !rows.is_empty() {
            h3 { "Each against the best other one" }
            p.note { "Difference of the accuracies on the same images, in points, with the 95% interval of a paired bootstrap. If it contains 0, \
                      the sweep does not show which one is better." }
            div.scroll { table {
                thead { tr { th { "policy" } th { "budget" } th { "against" } th { "points" } th { "interval" } } }
                tbody { @for (group, best, found) in &rows { tr {
                    th scope="row" { (group.policy) }
                    td { (Number::computed(group.target_flops, Style::Percent)) }
                    td { (best.policy) }
                    td.best[found.is_clear()] { (Number::computed(100.0 * found.difference, Style::Digits(2))) }
                    td { (Number::computed(100.0 * found.low, Style::Digits(2))) " to " (Number::computed(100.0 * found.high, Style::Digits(2))) }
                } } }
            } }
        }
    }
}
