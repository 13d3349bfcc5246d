//! The drawing: axes, the front, lines, intervals and points.

use std::ops::Range;

use plotters::prelude::*;

use super::super::cell::{Cell, DENSE};
use super::super::statistics::Mean;
use super::against::Against;
use super::front::{pareto_front, shown};
use super::legend::legend;
use super::line::{Line, Point};
use super::shapes::{FRONT, Failure, WIDE, bar, dashes, mark, polyline, ring, text};

const SIZE: (u32, u32) = (900, 560);
/// Points of accuracy that its axis shows at least.
const LEAST_ACCURACY: f64 = 5.0;
/// Points of cost that its axis shows at least.
const LEAST_COST: f64 = 10.0;

pub(super) fn draw(
    svg: &mut String,
    cells: &[Cell],
    against: Against,
    lines: &[Line],
) -> Result<(), Failure> {
    let points: Vec<(&Line, Point)> = lines
        .iter()
        .flat_map(|line| line.points.iter().map(move |&point| (line, point)))
        .collect();
    if points.is_empty() {
        return Err("no cell".into());
    }
    let xs: Vec<Mean> = points.iter().map(|(_, point)| point.x).collect();
    let ys: Vec<Mean> = points.iter().map(|(_, point)| point.y).collect();
    let xs = shown(&xs, 0.0..f64::INFINITY, LEAST_COST);
    let ys = shown(&ys, 0.0..100.0, LEAST_ACCURACY);

    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(against.title(), (64, 14), text(18.0, &BLACK)))?;
    let counts = points.iter().map(|(_, point)| point.y.count);
    let seeds = seeds(&counts.collect::<Vec<_>>());
    let images = cells.iter().map(|cell| cell.test_images).max();
    let subtitle = format!("{} test images; {seeds}", images.unwrap_or(0));
    root.draw(&Text::new(subtitle, (64, 40), text(13.0, &FRONT)))?;

    let longest = lines.iter().map(|line| line.policy.len()).max();
    let legend_width = (70 + 8 * longest.unwrap_or(0) as i32).clamp(180, 330);
    let legend_left = SIZE.0 as i32 - legend_width;
    let (left, _) = root.split_horizontally(legend_left);
    let mut chart = ChartBuilder::on(&left)
        .margin_top(66)
        .margin_bottom(10)
        .margin_left(8)
        .margin_right(8)
        .x_label_area_size(52)
        .y_label_area_size(60)
        .build_cartesian_2d(xs.clone(), ys.clone())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(232, 232, 232))
        .axis_style(RGBColor(90, 90, 90))
        .label_style(text(13.0, &BLACK))
        .axis_desc_style(text(14.0, &BLACK))
        .x_desc(against.axis())
        .y_desc("test accuracy (%)")
        .x_label_formatter(&tick(&xs))
        .y_label_formatter(&tick(&ys))
        .draw()?;
    let pixel = |at: (f64, f64)| chart.plotting_area().map_coordinate(&at);

    if let Some((_, dense)) = points.iter().find(|(line, _)| line.policy == DENSE) {
        let [from, to] = [xs.start, xs.end].map(|x| pixel((x, dense.y.mean)));
        dashes(&root, from, to)?;
    }
    let front = pareto_front(&points.iter().map(|(_, p)| p.at()).collect::<Vec<_>>());
    let front = front.iter().map(|&i| pixel(points[i].1.at()));
    let front: Vec<(i32, i32)> = front.collect();
    // Under the policies' lines, wider than they are.
    polyline(&root, front.clone(), WIDE.stroke_width(6))?;
    for line in lines {
        let path = line.points.iter().map(|point| pixel(point.at()));
        polyline(&root, path.collect(), line.color.stroke_width(2))?;
    }
    for (line, point) in &points {
        let (x, y) = point.at();
        if let Some(half) = point.y.half_width {
            let ends = [y - half, y + half].map(|end| {
                // No accuracy is below 0% or above 100%.
                let end = end.clamp(0.0, 100.0);
                let shown = end.clamp(ys.start, ys.end);
                (pixel((x, shown)), shown == end)
            });
            bar(&root, ends, line.color)?;
        }
        if let Some(half) = point.x.half_width.filter(|_| against == Against::Time) {
            let ends = [x - half, x + half].map(|end| {
                let shown = end.clamp(xs.start, xs.end);
                (pixel((shown, y)), shown == end)
            });
            bar(&root, ends, line.color)?;
        }
    }
    for (line, point) in &points {
        mark(&root, pixel(point.at()), line.marker, line.color)?;
    }
    for &point in &front {
        ring(&root, point)?;
    }
    legend(&root, (legend_left + 12, 84), lines)?;
    root.present()?;
    Ok(())
}

/// What a point is of, given how many seeds each is of.
fn seeds(counts: &[usize]) -> String {
    let least = counts.iter().min().copied().unwrap_or(0);
    let most = counts.iter().max().copied().unwrap_or(0);
    match (least, most) {
        (_, ..=1) => "one seed (n = 1: no interval)".to_string(),
        (1, most) => {
            format!("mean over seeds (n = 1 to {most}), bars: 95% t-interval where n is above 1")
        }
        (least, most) if least == most => {
            format!("mean over seeds (n = {most}), bars: 95% t-interval")
        }
        (least, most) => {
            format!("mean over seeds (n = {least} to {most}), bars: 95% t-interval")
        }
    }
}

/// As many digits as an axis of this length needs.
fn tick(range: &Range<f64>) -> impl Fn(&f64) -> String + use<> {
    let digits = match range.end - range.start {
        length if length >= 8.0 => 0,
        length if length >= 0.8 => 1,
        _ => 2,
    };
    move |value| format!("{value:.digits$}")
}
