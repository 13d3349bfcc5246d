//! What is drawn more than once.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::marker::Marker;

pub(super) const FRONT: RGBColor = RGBColor(60, 60, 60);
/// Of the line that joins the front.
pub(super) const WIDE: RGBColor = RGBColor(205, 205, 205);
/// Half the width of an interval's cap, in pixels.
const CAP: i32 = 5;
const GUIDE: RGBColor = RGBColor(170, 170, 170);

pub(super) type Failure = Box<dyn std::error::Error>;
pub(super) type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Letters `size` pixels high.
pub(super) fn text(size: f64, color: &RGBColor) -> TextStyle<'_> {
    // The SVG backend divides by as much.
    let font = ("sans-serif", 1.24 * size).into_font();
    TextStyle::from(font).color(color)
}

/// A point, with a white edge where it lies on others.
pub(super) fn mark(
    root: &Canvas<'_>,
    at: (i32, i32),
    marker: Marker,
    color: RGBColor,
) -> Result<(), Failure> {
    for (radius, color) in [(7.5, WHITE), (6.0, color)] {
        match marker.corners(at, radius) {
            Some(corners) => root.draw(&Polygon::new(corners, color.filled()))?,
            None => root.draw(&Circle::new(at, radius.round() as i32, color.filled()))?,
        }
    }
    Ok(())
}

/// A line through points; one point has none.
pub(super) fn polyline(
    root: &Canvas<'_>,
    points: Vec<(i32, i32)>,
    style: ShapeStyle,
) -> Result<(), Failure> {
    if points.len() > 1 {
        root.draw(&PathElement::new(points, style))?;
    }
    Ok(())
}

pub(super) fn ring(root: &Canvas<'_>, at: (i32, i32)) -> Result<(), Failure> {
    root.draw(&Circle::new(at, 11, FRONT.stroke_width(2)))?;
    Ok(())
}

/// An interval, level or upright: a cap at each end, or an arrow where it goes on beyond the edge of the chart.
pub(super) fn bar(
    root: &Canvas<'_>,
    ends: [((i32, i32), bool); 2],
    color: RGBColor,
) -> Result<(), Failure> {
    let style = color.stroke_width(2);
    let [(from, _), (to, _)] = ends;
    root.draw(&PathElement::new([from, to], style))?;
    // One pixel along the bar, and one across.
    let along = ((to.0 - from.0).signum(), (to.1 - from.1).signum());
    let across = (along.1.abs(), along.0.abs());
    let at = |(x, y): (i32, i32), forward: i32, aside: i32| {
        let (dx, dy) = (forward * along.0, forward * along.1);
        (x + dx + aside * across.0, y + dy + aside * across.1)
    };
    for ((end, is_end), inward) in ends.into_iter().zip([1, -1]) {
        let cap = if is_end {
            vec![at(end, 0, -CAP), at(end, 0, CAP)]
        } else {
            let back = inward * CAP;
            vec![at(end, back, -CAP), end, at(end, back, CAP)]
        };
        root.draw(&PathElement::new(cap, style))?;
    }
    Ok(())
}

/// A level line of dashes.
pub(super) fn dashes(root: &Canvas<'_>, from: (i32, i32), to: (i32, i32)) -> Result<(), Failure> {
    for x in (from.0..to.0).step_by(8) {
        let dash = vec![(x, from.1), ((x + 4).min(to.0), from.1)];
        root.draw(&PathElement::new(dash, GUIDE.stroke_width(1)))?;
    }
    Ok(())
}
