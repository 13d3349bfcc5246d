//! Lines' names.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::cell::DENSE;
use super::front::SAME_COST;
use super::line::Line;
use super::shapes::{Canvas, Failure, WIDE, dashes, mark, ring, text};

/// Lines' names, beside the chart.
pub(super) fn legend(
    root: &Canvas<'_>,
    (x, top): (i32, i32),
    lines: &[Line],
) -> Result<(), Failure> {
    let name = |y: i32, name: &str, size: f64| {
        let style = text(size, &BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(name.to_string(), (x + 44, y), style))
    };
    let sample = |y: i32| [(x, y), (x + 34, y)];
    let step = (380 / (lines.len() as i32 + 2)).clamp(14, 28);
    let mut y = top;
    for line in lines {
        let [from, to] = sample(y);
        if line.policy == DENSE {
            dashes(root, from, to)?;
        } else {
            root.draw(&PathElement::new([from, to], line.color.stroke_width(2)))?;
        }
        mark(root, (x + 17, y), line.marker, line.color)?;
        name(y, &line.policy, 14.0)?;
        y += step;
    }
    y += 8;
    root.draw(&PathElement::new(sample(y), WIDE.stroke_width(6)))?;
    ring(root, (x + 17, y))?;
    name(y, "Pareto front", 14.0)?;
    name(y + 19, &format!("costs within {SAME_COST} point"), 11.5)?;
    name(y + 34, "count as equal", 11.5)?;
    Ok(())
}
