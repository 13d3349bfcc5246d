//! Lines and points as an inline SVG, with a legend of text beside it.
//!
//! A drawing uses the colours of sweeps' plots, [`COLORS`], and those of the axes. The page's style replaces them by those of a
//! bright or a dark page, and calls them `--c0`, `--c1`, ...

use std::ops::Range;

use apt_rl_trainer::sweep::COLORS;
use maud::{Markup, PreEscaped, html};
use plotters::prelude::*;

/// About the width of a phone, on which letters then keep their size.
const SIZE: (u32, u32) = (440, 270);
const GRID: RGBColor = RGBColor(232, 232, 232);
const AXIS: RGBColor = RGBColor(90, 90, 90);

/// A line through points.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
    /// Is each point marked?
    pub marked: bool,
}

impl Series {
    /// A line without marks.
    pub fn line(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.into(),
            points,
            marked: false,
        }
    }

    /// A line with a mark on every point.
    pub fn marked(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self {
            marked: true,
            ..Self::line(name, points)
        }
    }
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The text above it.
    pub title: String,
    /// The label of its x axis.
    pub x: &'static str,
    /// The lines, in the order of the colours.
    pub series: Vec<Series>,
    /// A note below it.
    pub note: Option<String>,
    /// Are its values percentages? Then the y axis ends near 100, and spans at least `LEAST` points.
    pub percent: bool,
}

/// Percentage points that an axis of percentages spans at least.
const LEAST: f64 = 5.0;
/// The share of the largest cost that an axis of costs spans at least: nearly equal costs then stand close to each other.
const LEAST_COST: f64 = 0.2;
/// Points that are no more pixels apart hide each other.
const HIDDEN: f64 = 6.0;

impl Chart {
    /// A chart over the steps of a training, as [`of_points`](Self::of_points).
    pub fn over_steps(title: &str, series: Vec<Series>) -> Option<Self> {
        Self::of_points(title, "optimiser step", series)
    }

    /// A chart of those series that have points; `None` if none has. With `%` in its title, its values are percentages.
    pub fn of_points(
        title: impl Into<String>,
        x: &'static str,
        series: Vec<Series>,
    ) -> Option<Self> {
        let title = title.into();
        let chart = Self {
            x,
            series,
            note: None,
            percent: title.contains('%'),
            title,
        };
        chart.drawable()
    }

    /// Without points that are not finite, and without series that have no points.
    fn drawable(mut self) -> Option<Self> {
        let is_finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        for series in &mut self.series {
            series.points.retain(is_finite);
        }
        self.series.retain(|series| !series.points.is_empty());
        (!self.series.is_empty()).then_some(self)
    }

    /// The chart with a note below it.
    pub fn with_note(self, note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..self
        }
    }

    /// As a figure: title, drawing, legend.
    pub fn figure(&self) -> Markup {
        let names: Vec<&str> = self
            .series
            .iter()
            .map(|series| series.name.as_str())
            .collect();
        let what = format!("{}, by {}: {}", self.title, self.x, names.join(", "));
        html! {
            figure.chart {
                figcaption { (self.title) }
                @match draw(self) {
                    Ok(svg) => div role="img" aria-label=(what) { (PreEscaped(svg)) },
                    Err(error) => p.dim { "This chart could not be drawn: " (error) },
                }
                ul.legend {
                    @for (index, name) in names.iter().enumerate() {
                        li { span.swatch style={ "background:var(--c" (index % COLORS.len()) ")" } {} (name) }
                    }
                }
                @if let Some(note) = &self.note { p.note { (note) } }
            }
        }
    }
}

fn draw(chart: &Chart) -> Result<String, Box<dyn std::error::Error>> {
    let all = || chart.series.iter().flat_map(|series| &series.points);
    let is_over_steps = chart.series.iter().any(|series| !series.marked);
    let beside = if is_over_steps { 0.0 } else { 0.05 };
    let costs = all().map(|point| point.0);
    let least_cost = if is_over_steps {
        0.0
    } else {
        LEAST_COST * costs.fold(0.0, f64::max)
    };
    let xs = axis(all().map(|point| point.0), beside, least_cost);
    let mut ys = axis(
        all().map(|point| point.1),
        0.06,
        if chart.percent { LEAST } else { 0.0 },
    );
    let most = all().map(|point| point.1).fold(0.0, f64::max);
    if chart.percent && most <= 100.0 && ys.end > 100.0 {
        // A mark at 100 is not cut.
        let end = 100.0 + 0.03 * (ys.end - ys.start);
        ys = ys.start - (ys.end - end).min(ys.start.max(0.0))..end;
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut canvas = ChartBuilder::on(&root)
            .margin_top(8)
            .margin_right(14)
            .x_label_area_size(42)
            .y_label_area_size(52)
            .build_cartesian_2d(xs.clone(), ys.clone())?;
        canvas
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .x_labels(5)
            .y_labels(6)
            .label_style(text(12.0))
            .axis_desc_style(text(12.0))
            .x_desc(chart.x)
            .x_label_formatter(&tick(&xs))
            .y_label_formatter(&tick(&ys))
            .draw()?;
        let colored = chart.series.iter().zip(COLORS.iter().cycle());
        for (index, (series, color)) in colored.enumerate() {
            if series.points.len() > 1 {
                let points = series.points.iter().copied();
                canvas.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
            }
            if series.marked || series.points.len() == 1 {
                let is_crowded = is_over_steps || series.points.len() > 6;
                let radius = if is_crowded { 3 } else { 5 };
                let later = if is_crowded {
                    &[]
                } else {
                    &chart.series[index + 1..]
                };
                let (xs, ys) = (&xs, &ys);
                let circles = |wider: i32, style: ShapeStyle| {
                    let points = series.points.iter();
                    let radius = move |at| radius + wider + 3 * hidden_by(at, later, xs, ys);
                    points.map(move |&at| Circle::new(at, radius(at), style))
                };
                canvas.draw_series(circles(1, WHITE.filled()))?;
                canvas.draw_series(circles(0, color.filled()))?;
            }
        }
        root.present()?;
    }
    Ok(svg)
}

/// How many of the series that are drawn later have a point about here: a point that they would hide is drawn larger.
fn hidden_by(at: (f64, f64), later: &[Series], xs: &Range<f64>, ys: &Range<f64>) -> i32 {
    let pixels = |from: f64, to: f64, range: &Range<f64>, size: u32| {
        (to - from) / (range.end - range.start) * f64::from(size)
    };
    let is_near = |&(x, y): &(f64, f64)| {
        pixels(at.0, x, xs, SIZE.0).hypot(pixels(at.1, y, ys, SIZE.1)) <= HIDDEN
    };
    let hiding = later
        .iter()
        .filter(|series| series.points.iter().any(is_near));
    hiding.count() as i32
}

fn text(size: f64) -> TextStyle<'static> {
    // The SVG backend divides by as much.
    TextStyle::from(("sans-serif", 1.24 * size).into_font()).color(&BLACK)
}

/// From the smallest to the largest with room on both sides, and as long as `least`.
fn axis(values: impl Iterator<Item = f64>, room: f64, least: f64) -> Range<f64> {
    let wider = |r: (f64, f64), value: f64| (r.0.min(value), r.1.max(value));
    let (start, end) = values.fold((f64::INFINITY, f64::NEG_INFINITY), wider);
    let span = end - start;
    if span <= start.abs() * 1e-9 && least == 0.0 {
        // One value has its own scale, also where that is 0.
        let half = if start == 0.0 { 0.5 } else { 0.1 * start.abs() };
        return start - half..end + half;
    }
    let beside = (room * span).max(0.5 * (least - span));
    start - beside..end + beside
}

/// As many digits as an axis of this length needs.
fn tick(range: &Range<f64>) -> impl Fn(&f64) -> String + use<> {
    let span = range.end - range.start;
    let most = range.start.abs().max(range.end.abs());
    move |&value| {
        if most < 1e-3 {
            // A sum of steps that should be 0 may be 1e-19.
            return if value.abs() < 1e-6 * span {
                "0".into()
            } else {
                format!("{value:.0e}")
            };
        }
        if most >= 1e5 {
            return format!("{}k", value / 1e3);
        }
        let digits = (1.0 - span.log10()).ceil().clamp(0.0, 4.0) as usize;
        format!("{value:.digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> Option<Chart> {
        Chart::over_steps("loss", series)
    }

    #[test]
    fn a_chart_draws_every_series_and_no_nonsense() {
        let points = vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 0.5)];
        let drawn = chart(vec![
            Series::line("training", points),
            Series::marked("held out", vec![(2.0, 0.7)]),
            Series::line("nothing", Vec::new()),
        ]);
        let text = drawn.unwrap().figure().into_string();
        assert!(
            text.contains("<polyline") && text.contains("<circle"),
            "{text}"
        );
        assert!(!text.contains("NaN") && !text.contains("nothing"), "{text}");
        assert!(chart(vec![Series::line("nothing", Vec::new())]).is_none());
    }

    #[test]
    fn percentages_are_not_magnified_and_end_at_a_hundred() {
        let points = vec![(1.0, 98.5), (2.0, 98.6)];
        let drawn = Chart::of_points(
            "Accuracy (%)",
            "FLOPs",
            vec![Series::marked("dense", points)],
        );
        let text = drawn.unwrap().figure().into_string();
        assert!(
            text.contains("\n96.0\n") && !text.contains("\n101.0\n"),
            "{text}"
        );
        let range = axis([98.5, 98.6].into_iter(), 0.06, LEAST);
        assert!((range.end - range.start - LEAST).abs() < 1e-9, "{range:?}");
    }

    #[test]
    fn a_point_under_another_one_is_larger_and_nearly_equal_costs_stay_close() {
        let at = |name: &str, x: f64| Series::marked(name, vec![(x, 98.5)]);
        let radii = |second: f64| -> Vec<String> {
            let drawn = Chart::of_points(
                "Accuracy (%)",
                "FLOPs, %",
                vec![at("first", 65.3), at("second", second)],
            );
            let text = drawn.unwrap().figure().into_string();
            let radii = text.split(" r=\"").skip(1);
            radii
                .filter_map(|rest| Some(rest.split('"').next()?.to_string()))
                .collect()
        };
        // A white edge, and the mark.
        assert_eq!(radii(100.0), ["6", "5", "6", "5"]);
        assert_eq!(radii(65.4), ["9", "8", "6", "5"]);
    }

    #[test]
    fn a_zero_of_an_axis_is_written_as_zero() {
        let tick = tick(&(-4e-4..4e-4));
        assert_eq!(tick(&-1e-19), "0");
        assert_eq!(tick(&2e-4), "2e-4");
    }

    #[test]
    fn names_in_a_chart_are_text() {
        let drawn = chart(vec![Series::line("<script>", vec![(0.0, 0.0)])]);
        let text = drawn.unwrap().figure().into_string();
        assert!(!text.contains("<script>"), "{text}");
    }

    #[test]
    fn equal_values_have_a_scale() {
        for value in [0.0, 0.5, -3.0, 1e-9] {
            let range = axis([value, value].into_iter(), 0.05, 0.0);
            assert!(range.start < value && range.end > value, "{range:?}");
        }
    }
}
