//! Which points are best, and what an axis shows of them.

use std::ops::Range;

use super::super::statistics::Mean;

/// Costs less than this apart count as equal, in points.
pub(super) const SAME_COST: f64 = 1.0;

/// The points that no other beats by being more accurate at no more cost, where costs less than
/// [`SAME_COST`] apart count as equal: budgets are met, and times taken, no more exactly than that.
/// As indices, by cost.
pub(super) fn pareto_front(points: &[(f64, f64)]) -> Vec<usize> {
    let beats = |a: &(f64, f64), b: &(f64, f64)| {
        if a.1 == b.1 {
            a.0 < b.0
        } else {
            a.1 > b.1 && a.0 < b.0 + SAME_COST
        }
    };
    let unbeaten = |&i: &usize| !points.iter().any(|other| beats(other, &points[i]));
    let mut front: Vec<usize> = (0..points.len()).filter(unbeaten).collect();
    front.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0));
    front
}

/// The smallest and the largest.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Range<f64> {
    let wider = |r: Range<f64>, value: f64| r.start.min(value)..r.end.max(value);
    values.fold(f64::INFINITY..f64::NEG_INFINITY, wider)
}

/// What an axis shows: all points, and their bars unless these are far longer than the points are
/// apart (as with two seeds, whose t-interval is 13 standard errors wide); `least` points at least, so that noise does
/// not look like a difference.
pub(super) fn shown(means: &[Mean], limits: Range<f64>, least: f64) -> Range<f64> {
    let points = extent(means.iter().map(|mean| mean.mean));
    let spread = (points.end - points.start).max(0.5 * least);
    let half = |mean: &Mean| mean.half_width.unwrap_or(0.0).min(0.6 * spread);
    let bars = extent(
        means
            .iter()
            .flat_map(|m| [m.mean - half(m), m.mean + half(m)]),
    );
    let bars = bars.start.max(limits.start)..bars.end.min(limits.end);
    let span = (1.12 * (bars.end - bars.start)).max(least);
    let start = 0.5 * (bars.start + bars.end - span);
    // What lies beyond a limit is shown on the other side.
    let start = start.min(limits.end - span).max(limits.start);
    // No marker is cut: the limit itself has room beyond it where a point is near it.
    let end = (start + span).min(limits.end).max(points.end + 0.04 * span);
    start..end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_front_holds_what_nothing_beats() {
        let points = [
            (50.0, 90.0),
            (60.0, 89.0),
            (70.0, 92.0),
            (70.0, 91.0),
            (40.0, 80.0),
        ];
        assert_eq!(pareto_front(&points), [4, 0, 2]);
        // Cheaper by less than a point and less accurate: not on it.
        assert_eq!(pareto_front(&[(49.6, 88.0), (50.0, 90.0)]), [1]);
        assert_eq!(pareto_front(&[(48.6, 88.0), (50.0, 90.0)]), [0, 1]);
        // As accurate: the cheaper one; equal points both.
        assert_eq!(pareto_front(&[(50.0, 90.0), (49.9, 90.0)]), [1]);
        assert_eq!(pareto_front(&[(1.0, 2.0), (1.0, 2.0)]), [0, 1]);
    }

    proptest! {
        #[test]
        fn no_point_of_the_front_is_dominated_and_every_other_is(
            points in proptest::collection::vec((40.0..100.0, 50.0..100.0), 1..20),
        ) {
            let front = pareto_front(&points);
            for (index, point) in points.iter().enumerate() {
                let is_dominated = |slack: f64| {
                    points.iter().any(|other| other.0 < point.0 + slack && other.1 > point.1)
                };
                if front.contains(&index) {
                    prop_assert!(!is_dominated(0.0));
                } else {
                    prop_assert!(is_dominated(SAME_COST));
                }
            }
        }
    }

    #[test]
    fn an_axis_shows_all_points_but_not_bars_without_end() {
        let at = |mean, half| Mean {
            mean,
            half_width: half,
            count: 2,
        };
        let axis = |means: &[Mean]| shown(means, 0.0..100.0, 5.0);
        let range = axis(&[at(80.0, Some(1.0)), at(90.0, Some(500.0))]);
        assert!(range.start < 79.0 && range.start > 70.0 && range.end > 92.0);
        let range = axis(&[at(80.0, None)]);
        assert!(range.start < 80.0 && range.end > 80.0);
    }

    #[test]
    fn an_axis_magnifies_no_noise_and_shows_no_more_than_it_has_to() {
        let at = |mean| Mean {
            mean,
            half_width: None,
            count: 1,
        };
        let axis = |means: &[f64]| {
            let means: Vec<Mean> = means.iter().copied().map(at).collect();
            let range = shown(&means, 0.0..100.0, 5.0);
            (range.start, range.end)
        };
        let near = |(a, b): (f64, f64), (c, d): (f64, f64)| {
            assert!((a - c).abs() < 0.01 && (b - d).abs() < 0.01, "{a}..{b}");
        };
        near(axis(&[97.1, 97.2]), (94.65, 99.65));
        // At an end of the scale it has as many points.
        near(axis(&[99.0, 99.2]), (95.0, 100.0));
        near(axis(&[100.0]), (95.0, 100.2));
        near(axis(&[0.5]), (0.0, 5.0));
        // Two points that are far apart fill it.
        near(axis(&[60.0, 90.0]), (58.2, 91.8));
        // Bars that go on beyond the scale take no room from it.
        let long = Mean {
            half_width: Some(4.0),
            ..at(98.0)
        };
        let range = shown(&[at(90.0), long], 0.0..100.0, 5.0);
        assert!(range.start > 88.0 && range.end <= 100.0, "{range:?}");
    }
}
