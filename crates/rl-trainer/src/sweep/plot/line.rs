//! What a policy's cells become: a line of points.

use plotters::prelude::*;

use super::super::cell::{Cell, DENSE, Group, groups};
use super::super::statistics::{Mean, mean};
use super::against::Against;
use super::marker::Marker;
use super::palette::COLORS;

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
            points: vec![point],
        });
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.x.mean.total_cmp(&b.x.mean));
    }
    lines
}
