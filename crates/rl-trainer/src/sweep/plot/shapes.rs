//! What is drawn more than once.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::marker::Marker;

pub(super) const FRONT: RGBColor = RGBColor(60, 60, 60);
/// Of the line that joins the front.
pub(super) const WIDE: RGBColor = RGBColor(205, 205, 205);
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

pub(super) fn ring(root: &Canvas<'_>, at: (i32, i32)) -> Result<(), Failure> {
    root.draw(&Circle::new(at, 11, FRONT.stroke_width(2)))?;
    Ok(())
}

/// An interval, with a cap at each end that is one and not the edge of the chart.
pub(super) fn bar(
    root: &Canvas<'_>,
    ends: [((i32, i32), bool); 2],
    (dx, dy): (i32, i32),
    color: RGBColor,
) -> Result<(), Failure> {
    let style = color.stroke_width(1);
    root.draw(&PathElement::new(ends.map(|(at, _)| at), style))?;
    for ((x, y), _) in ends.into_iter().filter(|(_, is_end)| *is_end) {
        root.draw(&PathElement::new(
            [(x - dx, y - dy), (x + dx, y + dy)],
            style,
        ))?;
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
