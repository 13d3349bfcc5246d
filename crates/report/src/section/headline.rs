//! The large numbers at the top: accuracy, cost and speed.

use apt_rl_trainer::sweep::{Cell, DENSE, Group, compare, groups, mean};
use maud::{Markup, html};

use super::interval::half_interval;
use super::sweep::trainings;
use crate::document::Document;
use crate::folder::Kind;
use crate::number::{Number, Style};
use crate::passes::Way;
use crate::subject::Subject;

/// A number with its name and a note.
struct Tile {
    name: &'static str,
    number: Option<Number>,
    note: String,
}

impl Tile {
    fn new(name: &'static str, number: Option<Number>, note: impl Into<String>) -> Self {
        Self {
            name,
            number,
            note: note.into(),
        }
    }
}

/// A few large numbers.
pub fn headline(subject: &Subject) -> Markup {
    let folder = &subject.folder;
    let tiles = match folder.kind {
        Kind::Run if folder.summary.is_there() => of_summary(&folder.summary),
        Kind::Run => of_last_epoch(subject),
        Kind::Model if folder.pruning.is_there() => of_pruning(&folder.pruning),
        Kind::Model => of_passes(subject),
        Kind::Sweep => of_sweep(subject),
    };
    html! {
        @if let Some(sentence) = sentence(subject) { p.lead { (sentence) } }
        dl.tiles {
            @for tile in tiles.iter().filter(|tile| tile.number.is_some()) {
                div {
                    dt { (tile.name) }
                    dd {
                        @if let Some(number) = &tile.number { (number) }
                        span.note { (tile.note) }
                    }
                }
            }
        }
    }
}

/// The result in one sentence.
fn sentence(subject: &Subject) -> Option<Markup> {
    let (summary, pruning) = (&subject.folder.summary, &subject.folder.pruning);
    let percent = |pointer: &str| summary.number(pointer, Style::Percent);
    if let (Some(share), Some(pruned), Some(dense)) = (
        percent("/flops_share"),
        percent("/pruned_accuracy"),
        percent("/dense_accuracy"),
    ) {
        return Some(html! {
            "With " (share) " of the dense model's compute, it classifies " (pruned) " of the test images right; with all of it, "
            (dense) "."
        });
    }
    if subject.folder.kind == Kind::Sweep {
        return winners(&subject.folder.cells);
    }
    let own = own_row(pruning)?;
    let percent = |key: &str| pruning.number(&format!("/rows/{own}/{key}"), Style::Percent);
    let share = percent("flops_share")?;
    if let Some(cosine) = pruning.number(&format!("/rows/{own}/cosine"), Style::Digits(4)) {
        return Some(html! {
            "With " (share) " of the dense model's compute, its features and the dense model's have a cosine of " (cosine) "."
        });
    }
    let equal = percent("equal_answers")?;
    Some(
        html! { "With " (share) " of the dense model's compute, it gives the dense model's answer for " (equal) " of the images." },
    )
}

/// The most accurate policies at each budget.
fn winners(cells: &[Cell]) -> Option<Markup> {
    let groups = groups(cells);
    let accuracy = |group: &Group<'_>| mean(&group.values(|cell| cell.accuracy)).mean;
    let percent = |value: f64| Number::computed(value, Style::Percent);
    let others = || groups.iter().filter(|group| group.policy != DENSE);
    let mut budgets: Vec<f64> = others().map(|group| group.target_flops).collect();
    budgets.sort_by(|a, b| b.total_cmp(a));
    budgets.dedup();
    let best = budgets.iter().map(|&budget| {
        let own = || others().filter(|group| group.target_flops == budget);
        let most = own().map(accuracy).fold(0.0, f64::max);
        let (first, rest): (Vec<&Group<'_>>, Vec<&Group<'_>>) =
            own().partition(|group| accuracy(group) == most);
        // Those whose paired interval holds no difference.
        let equal = rest.into_iter().filter(|group| {
            let found = first
                .first()
                .and_then(|best| compare(&best.cells, &group.cells));
            found.is_some_and(|found| !found.is_clear())
        });
        let equal: Vec<&str> = equal.map(|group| group.policy).collect();
        let names: Vec<&str> = first.iter().map(|group| group.policy).collect();
        (budget, names.join(" and "), most, equal.join(", "))
    });
    let best: Vec<(f64, String, f64, String)> = best.collect();
    let dense = groups
        .iter()
        .find(|group| group.policy == DENSE)
        .map(accuracy);
    (!best.is_empty()).then(|| {
        html! {
            "Most accurate"
            @for (index, (budget, names, most, equal)) in best.iter().enumerate() {
                @if index > 0 { ";" } " at " (percent(*budget)) " of the dense FLOPs: "
                @if equal.is_empty() { b { (names) } } @else { (names) }
                ", " (percent(*most))
                @if !equal.is_empty() { " (" (equal) " may be as accurate)" }
            }
            "." @if let Some(dense) = dense { " Dense: " (percent(dense)) "." }
        }
    })
}

/// The row of the chosen policy at its first budget.
fn own_row(pruning: &Document) -> Option<usize> {
    let policy = pruning.text("/policy")?;
    let mut rows = pruning.items("/rows").iter();
    rows.position(|row| row["policy"] == policy && row["target_flops"].is_number())
}

fn of_summary(summary: &Document) -> Vec<Tile> {
    let images = summary.number("/test_images", Style::Whole);
    let images = images.map_or(String::new(), |n| format!("of {} test images", n.value));
    let speeds = ["dense", "pruned"].map(|way| {
        let speed = summary.number(&format!("/images_per_s/{way}"), Style::TimePerImage);
        speed.map(|speed| speed.value)
    });
    let speed_up = speeds[1]
        .zip(speeds[0])
        .map(|(pruned, dense)| pruned / dense);
    let per_image = summary.number("/images_per_s/pruned", Style::TimePerImage);
    let per_image = per_image.map_or(String::new(), |n| {
        format!(" ({} an image)", Style::TimePerImage.text(n.value))
    });
    let batch = summary.number("/eval_batch_size", Style::Whole);
    let batch = batch.map_or(String::new(), |n| format!(", in batches of {}", n.value));
    let lost = summary
        .number("/dense_accuracy", Style::Percent)
        .zip(summary.number("/pruned_accuracy", Style::Percent));
    let lost = lost.map_or(String::new(), |(dense, pruned)| {
        let points = 100.0 * (pruned.value - dense.value);
        let count = summary.number("/test_images", Style::Whole);
        let chance = count.map_or(String::new(), |count| {
            let half = 100.0 * half_interval(pruned.value, count.value);
            format!("; 95% interval ±{half:.1} points")
        });
        format!("{points:+.1} points from dense, {images}{chance}")
    });
    vec![
        Tile::new(
            "Accuracy, pruned",
            summary.number("/pruned_accuracy", Style::Percent),
            lost,
        ),
        Tile::new(
            "Accuracy, dense",
            summary.number("/dense_accuracy", Style::Percent),
            images,
        ),
        Tile::new(
            "FLOPs share",
            summary.number("/flops_share", Style::Percent),
            "counted, of the dense model's, the policy included",
        ),
        Tile::new(
            "Times as fast",
            speed_up.map(|value| Number::computed(value, Style::Digits(2))),
            format!("timed, pruned against dense{batch}{per_image}"),
        ),
        Tile::new(
            "Trained for",
            summary.number("/seconds", Style::Duration),
            "all its sessions together",
        ),
    ]
}

fn of_last_epoch(subject: &Subject) -> Vec<Tile> {
    let epochs = subject.folder.metrics.epochs("valid");
    let Some(last) = epochs.last() else {
        return Vec::new();
    };
    let at = last.step().map_or(String::new(), |step| {
        format!("held-out images, at step {step}")
    });
    vec![
        Tile::new(
            "Accuracy, pruned",
            last.number("pruned_accuracy", Style::Percent),
            at.clone(),
        ),
        Tile::new(
            "Accuracy, dense",
            last.number("dense_accuracy", Style::Percent),
            at.clone(),
        ),
        Tile::new(
            "FLOPs share",
            last.number("flops_share", Style::Percent),
            at,
        ),
    ]
}

fn of_pruning(pruning: &Document) -> Vec<Tile> {
    let dense = pruning
        .items("/rows")
        .iter()
        .find(|row| row["policy"] == "dense");
    let Some(own) = own_row(pruning) else {
        return Vec::new();
    };
    let at = |key: &str, style| pruning.number(&format!("/rows/{own}/{key}"), style);
    let dense = dense.and_then(|row| row["images_per_s"].as_f64());
    let speed_up = at("images_per_s", Style::Digits(1))
        .zip(dense)
        .map(|(own, dense)| own.value / dense);
    vec![
        Tile::new(
            "Equal answers",
            at("equal_answers", Style::Percent),
            "pruned and dense, on held-out images",
        ),
        Tile::new(
            "FLOPs share",
            at("flops_share", Style::Percent),
            "counted, of the dense model's, the policy included",
        ),
        Tile::new(
            "KL divergence",
            at("kl", Style::Digits(4)),
            "KL(dense || pruned) in nats, mean",
        ),
        Tile::new(
            "Cosine",
            at("cosine", Style::Digits(4)),
            "of dense and pruned features, mean",
        ),
        Tile::new(
            "Times as fast",
            speed_up.map(|value| Number::computed(value, Style::Digits(2))),
            "timed, pruned against dense",
        ),
        Tile::new(
            "Pruned in",
            pruning.number("/seconds", Style::Duration),
            "without labels, the model's weights unchanged",
        ),
    ]
}

fn of_passes(subject: &Subject) -> Vec<Tile> {
    let Some(passes) = subject.seen() else {
        return Vec::new();
    };
    let of = |way: Way| passes.measured.iter().find(|measured| measured.way == way);
    let (Some(dense), Some(own)) = (of(Way::Dense), of(Way::Own)) else {
        return Vec::new();
    };
    let images = format!("of {} images", passes.seen.len());
    let percent = |value: Option<f64>| value.map(|value| Number::computed(value, Style::Percent));
    vec![
        Tile::new("Accuracy, pruned", percent(own.accuracy), images.clone()),
        Tile::new("Accuracy, dense", percent(dense.accuracy), images),
        Tile::new(
            "Equal answers",
            percent(Some(own.equal_answers)),
            "pruned and dense",
        ),
        Tile::new(
            "FLOPs share",
            percent(Some(own.flops_share)),
            "counted, of the dense model's, the policy included",
        ),
    ]
}

fn of_sweep(subject: &Subject) -> Vec<Tile> {
    let cells = &subject.folder.cells;
    let mut policies: Vec<&str> = cells.iter().map(|cell| cell.policy.as_str()).collect();
    policies.dedup();
    let images = cells.iter().map(|cell| cell.test_images).max();
    let seconds = trainings(cells).map(|cell| cell.train_seconds).sum::<f64>();
    let whole = |value: usize| Some(Number::computed(value as f64, Style::Whole));
    vec![
        Tile::new(
            "Policies",
            whole(policies.len()),
            "the dense baseline counted",
        ),
        Tile::new(
            "Measurements",
            whole(cells.len()),
            "policy, budget and seed",
        ),
        Tile::new("Test images", images.and_then(whole), "the same for all"),
        Tile::new(
            "Trained for",
            Some(Number::computed(seconds, Style::Duration)),
            "all trainings together",
        ),
    ]
}
