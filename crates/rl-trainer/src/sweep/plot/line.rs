//! What a policy's cells become: a line of points.

use plotters::prelude::*;

use super::super::cell::{Cell, DENSE, Group, groups};
use super::super::statistics::{Mean, mean};
use super::against::Against;
use super::front::extent;
use super::marker::Marker;
use super::palette::COLORS;

/// Pixels between the points of a budget, which all cost nearly the same FLOPs.
const BESIDE: i32 = 9;

/// A policy at a budget, in percent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub x: Mean,
    pub y: Mean,
}

impl Point {
    fn of(group: &Group<'_>, against: Against) -> Self {
        Self {
            x: mean(&group.values(|cell| against.value(cell))),
            y: mean(&group.values(|cell| 100.0 * cell.accuracy)),
        }
    }

    pub fn at(&self) -> (f64, f64) {
        (self.x.mean, self.y.mean)
    }
}

/// A policy's points, by what they cost.
pub(super) struct Line {
    pub policy: String,
    pub color: RGBColor,
    pub marker: Marker,
    /// Pixels to the right of where they belong.
    pub beside: i32,
    pub points: Vec<Point>,
}

/// The policies' lines, and the baseline's at the end.
pub(super) fn lines(cells: &[Cell], against: Against) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut groups = groups(cells);
    groups.sort_by_key(|group| group.policy == DENSE);
    for group in groups {
        let point = Point::of(&group, against);
        if let Some(line) = lines.last_mut().filter(|line| line.policy == group.policy) {
            line.points.push(point);
            continue;
        }
        let index = lines.len() % COLORS.len();
        let (color, marker) = match group.policy {
            DENSE => (BLACK, Marker::Star),
            // Where colours come round again, markers are others.
            _ => {
                let turned = index + 3 * (lines.len() / COLORS.len());
                let markers = Marker::OF_POLICIES;
                (COLORS[index], markers[turned % markers.len()])
            }
        };
        lines.push(Line {
            policy: group.policy.to_string(),
            color,
            marker,
            beside: 0,
            points: vec![point],
        });
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.x.mean.total_cmp(&b.x.mean));
    }
    if against == Against::Flops {
        let beside = beside(cells, &lines);
        let policies = lines.iter_mut().filter(|line| line.policy != DENSE);
        let policies: Vec<&mut Line> = policies.collect();
        let first = -beside * (policies.len() as i32 - 1) / 2;
        for (line, index) in policies.into_iter().zip(0..) {
            line.beside = first + beside * index;
        }
    }
    lines
}

/// Pixels between the policies of a budget: fewer where budgets are close to each other.
fn beside(cells: &[Cell], lines: &[Line]) -> i32 {
    let mut budgets: Vec<f64> = cells.iter().map(|cell| 100.0 * cell.target_flops).collect();
    budgets.sort_by(f64::total_cmp);
    budgets.dedup();
    let gaps = budgets.windows(2).map(|pair| pair[1] - pair[0]);
    let gap = gaps.fold(f64::INFINITY, f64::min);
    let xs = extent(lines.iter().flat_map(|l| &l.points).map(|p| p.x.mean));
    // The chart is about 600 wide.
    let room = 0.6 * gap * 600.0 / (xs.end - xs.start).max(1.0);
    ((room / lines.len() as f64) as i32).min(BESIDE)
}
