use std::fmt::Write;

use super::cell::{Cell, DENSE, Group, groups};
use super::statistics::{Comparison, Mean, compare, compare_dense, mean};

/// A sweep as Markdown: a row for each policy and budget, then each policy against `reference` at
/// the same budget (against the baseline where that is [`DENSE`]).
pub fn summary(cells: &[Cell], reference: &str) -> String {
    let groups = groups(cells);
    let mut text = String::from("# Sweep\n\n");
    results(&mut text, &groups);
    comparisons(&mut text, &groups, reference);
    text
}

fn results(text: &mut String, groups: &[Group<'_>]) {
    text.push_str(
        "| policy | budget | seeds | accuracy | run dense | FLOPs share | largest miss | speed-up | realized |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for group in groups {
        let misses = group.values(|cell| 100.0 * (cell.flops_share - cell.target_flops));
        let largest = misses
            .into_iter()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {:.1}% | {} | {} | {} | {:.2}% | {} | {}x | {} |",
            group.policy,
            100.0 * group.target_flops,
            group.cells.len(),
            with_interval(&mean(&group.values(|cell| 100.0 * cell.accuracy)), 2, "%"),
            with_interval(
                &mean(&group.values(|cell| 100.0 * cell.dense_accuracy)),
                2,
                "%"
            ),
            100.0 * mean(&group.values(|cell| cell.flops_share)).mean,
            signed(largest.unwrap_or(0.0)),
            with_interval(&mean(&group.values(Cell::speed_up)), 2, ""),
            with_interval(&mean(&group.values(Cell::realized)), 2, ""),
        );
    }
    text.push_str(
        "\nMean over seeds ± 95% t-interval, on the test set. *Run dense*: the same weights with no token removed. \
         *FLOPs share*: counted, of the dense model's, agents included; *largest miss*: of the budget, in points, \
         the seed that is farthest off. *Speed-up*: timed, images/s against the same weights run dense, in turns. \
         *Realized*: speed-up x FLOPs share; 1 where all that was saved on paper was saved on the clock.\n",
    );
}

fn comparisons(text: &mut String, groups: &[Group<'_>], reference: &str) {
    let of_reference = |target: f64| {
        groups.iter().find(|group| {
            group.policy == reference && (reference == DENSE || group.target_flops == target)
        })
    };
    let _ = writeln!(text, "\n## Against {reference}\n");
    let mut rows = String::new();
    let mut clear = false;
    for group in groups {
        let Some(other) = of_reference(group.target_flops).filter(|_| group.policy != reference)
        else {
            continue;
        };
        let Some(pruned) = compare(&group.cells, &other.cells) else {
            continue;
        };
        let dense = compare_dense(&group.cells, &other.cells);
        clear |= pruned.is_clear() || dense.is_some_and(|dense| dense.is_clear());
        let _ = writeln!(
            rows,
            "| {} | {:.1}% | {} | {} | {} | {} |",
            group.policy,
            100.0 * group.target_flops,
            difference(&pruned),
            dense.as_ref().map_or("-".into(), difference),
            pruned.seeds,
            pruned.images,
        );
    }
    if rows.is_empty() {
        let _ = writeln!(
            text,
            "No policy shares a budget, a seed and the test images with {reference}."
        );
        return;
    }
    text.push_str(
        "| policy | budget | accuracy | run dense | seeds | images |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    text.push_str(&rows);
    text.push_str(
        "\nDifference in points, with the 95% interval of a bootstrap over images and seeds that keeps each seed's \
         two runs and each image together. Not corrected for the number of comparisons; with few seeds, what a seed \
         does to all images alike is understated.",
    );
    text.push_str(if clear {
        " **Bold**: the interval excludes 0.\n"
    } else {
        " No interval excludes 0.\n"
    });
}

/// `91.23 ± 0.45%`.
fn with_interval(mean: &Mean, digits: usize, unit: &str) -> String {
    match mean.half_width {
        Some(half) => format!("{:.digits$} ± {half:.digits$}{unit}", mean.mean),
        None => format!("{:.digits$}{unit}", mean.mean),
    }
}

fn difference(found: &Comparison) -> String {
    let [mid, low, high] = [found.difference, found.low, found.high].map(|x| signed(100.0 * x));
    if found.is_clear() {
        format!("**{mid}** [{low}, {high}]")
    } else {
        format!("{mid} [{low}, {high}]")
    }
}

/// Two digits; `0.00` without a sign.
fn signed(value: f64) -> String {
    match format!("{value:+.2}").as_str() {
        "+0.00" | "-0.00" => "0.00".into(),
        text => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic;
    use super::*;

    #[test]
    fn each_policy_and_budget_has_a_row_and_each_other_policy_a_comparison() {
        let cells = synthetic::sweep(60);
        let text = summary(&cells, "random");
        let (results, against) = text.split_once("## Against random").unwrap();
        let rows = |text: &str| text.lines().filter(|line| line.starts_with("| ")).count() - 2;
        assert_eq!(rows(results), 1 + 7 * 3);
        // The baseline has no budget in common with it.
        assert_eq!(rows(against), 6 * 3);
        assert!(results.contains("| dense | 100.0% | 3 |"), "{results}");
        assert!(!text.contains("NaN"));
    }

    #[test]
    fn against_dense_every_budget_is_compared() {
        let cells = synthetic::sweep(60);
        let text = summary(&cells, DENSE);
        let (_, against) = text.split_once("## Against dense").unwrap();
        let rows = against.lines().filter(|line| line.starts_with("| "));
        assert_eq!(rows.count() - 2, 7 * 3);
    }

    #[test]
    fn the_largest_miss_keeps_its_sign() {
        let mut cells = synthetic::sweep(20);
        cells.retain(|cell| cell.policy == "tome" && cell.target_flops == 0.5);
        for (cell, share) in cells.iter_mut().zip([0.51, 0.47, 0.5]) {
            cell.flops_share = share;
        }
        let text = summary(&cells, "random");
        assert!(text.contains("| 49.33% | -3.00 |"), "{text}");
        assert!(text.contains("No policy shares"), "{text}");
    }

    #[test]
    fn a_difference_of_nothing_has_no_sign() {
        assert_eq!(
            [signed(-0.001), signed(0.0), signed(1.0)],
            ["0.00", "0.00", "+1.00"]
        );
    }
}
