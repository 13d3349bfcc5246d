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
/// apart (as with two seeds, whose t-interval is 13 standard errors wide).
pub(super) fn shown(means: &[Mean], limits: Range<f64>) -> Range<f64> {
    let points = extent(means.iter().map(|mean| mean.mean));
    let spread = (points.end - points.start).max(1.0);
    let half = |mean: &Mean| mean.half_width.unwrap_or(0.0).min(0.6 * spread);
    let bars = extent(
        means
            .iter()
            .flat_map(|m| [m.mean - half(m), m.mean + half(m)]),
    );
    let margin = 0.06 * (bars.end - bars.start).max(1.0);
    (bars.start - margin).max(limits.start)..(bars.end + margin).min(limits.end)
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn an_axis_shows_all_points_but_not_bars_without_end() {
        let at = |mean, half| Mean {
            mean,
            half_width: half,
            count: 2,
        };
        let range = shown(&[at(80.0, Some(1.0)), at(90.0, Some(500.0))], 0.0..100.0);
        assert!(range.start < 79.0 && range.start > 75.0 && range.end > 92.0);
        let range = shown(&[at(80.0, None)], 0.0..100.0);
        assert!(range.start < 80.0 && range.end > 80.0);
    }
}
