use std::ops::Range;
use std::sync::Arc;

use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::{tiny_skia, usvg};

use super::statistics::{Mean, mean};
use super::{Cell, DENSE, Group, groups};

const SIZE: (u32, u32) = (900, 560);
/// The bitmap has this many pixels for each of the drawing's.
const SCALE: f32 = 2.0;
/// Okabe and Ito's colours, which the colour-blind tell apart, less the yellow that white swallows.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
    RGBColor(136, 34, 85),
];
/// In points.
const SAME_COST: f64 = 1.0;
/// Pixels between the points of a budget, which all cost nearly the same FLOPs.
const BESIDE: i32 = 9;
const FRONT: RGBColor = RGBColor(60, 60, 60);
/// Of the line that joins the front.
const WIDE: RGBColor = RGBColor(205, 205, 205);
const GUIDE: RGBColor = RGBColor(170, 170, 170);

/// What accuracy is drawn against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Counted FLOPs, as a share of the dense model's.
    Flops,
    /// Measured time of an image, as a share of that of the same weights run dense.
    Time,
}

impl Against {
    /// The name of its files: `accuracy-flops` or `accuracy-time`.
    pub fn file_stem(self) -> &'static str {
        match self {
            Self::Flops => "accuracy-flops",
            Self::Time => "accuracy-time",
        }
    }

    fn value(self, cell: &Cell) -> f64 {
        100.0
            * match self {
                Self::Flops => cell.flops_share,
                Self::Time => 1.0 / cell.speed_up(),
            }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Flops => "Accuracy against counted FLOPs",
            Self::Time => "Accuracy against measured time",
        }
    }

    fn axis(self) -> &'static str {
        match self {
            Self::Flops => "FLOPs per image (% of the dense model's)",
            Self::Time => "measured time per image (% of the dense model's)",
        }
    }
}

/// A policy at a budget, in percent.
#[derive(Clone, Copy, Debug)]
struct Point {
    x: Mean,
    y: Mean,
}

impl Point {
    fn of(group: &Group<'_>, against: Against) -> Self {
        Self {
            x: mean(&group.values(|cell| against.value(cell))),
            y: mean(&group.values(|cell| 100.0 * cell.accuracy)),
        }
    }

    fn at(&self) -> (f64, f64) {
        (self.x.mean, self.y.mean)
    }
}

/// A policy's points, by what they cost.
struct Line {
    policy: String,
    color: RGBColor,
    marker: Marker,
    /// Pixels to the right of where they belong.
    beside: i32,
    points: Vec<Point>,
}

/// The shape of a point.
#[derive(Clone, Copy)]
enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    TriangleDown,
    Cross,
    Pentagon,
    Plus,
    /// Of the dense model.
    Star,
}

impl Marker {
    const OF_POLICIES: [Self; 8] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Diamond,
        Self::TriangleDown,
        Self::Cross,
        Self::Pentagon,
        Self::Plus,
    ];

    /// Its corners about `center`, in pixels; none of a circle.
    fn corners(self, center: (i32, i32), radius: f64) -> Option<Vec<(i32, i32)>> {
        let turn = |count: usize, start: f64, radius: &dyn Fn(usize) -> f64| -> Vec<(f64, f64)> {
            let angle = |i: usize| (start + 360.0 * i as f64 / count as f64).to_radians();
            let corner = |i| (radius(i) * angle(i).cos(), radius(i) * angle(i).sin());
            (0..count).map(corner).collect()
        };
        let corners = match self {
            Self::Circle => return None,
            Self::Square => turn(4, 45.0, &|_| 1.25 * radius),
            Self::Triangle => turn(3, -90.0, &|_| 1.3 * radius),
            Self::TriangleDown => turn(3, 90.0, &|_| 1.3 * radius),
            Self::Diamond => turn(4, 0.0, &|_| 1.3 * radius),
            Self::Pentagon => turn(5, -90.0, &|_| 1.15 * radius),
            Self::Star => turn(10, -90.0, &|i| [1.7, 0.75][i % 2] * radius),
            Self::Cross => cross(1.1 * radius, 0.42 * radius, 45.0),
            Self::Plus => cross(1.2 * radius, 0.42 * radius, 0.0),
        };
        let pixel = |(x, y): (f64, f64)| (center.0 + x.round() as i32, center.1 + y.round() as i32);
        Some(corners.into_iter().map(pixel).collect())
    }
}

/// Two crossed bars, `arm` long and `half` wide to each side, turned by so many degrees.
fn cross(arm: f64, half: f64, degrees: f64) -> Vec<(f64, f64)> {
    let corner = [(half, half), (half, arm), (-half, arm)];
    let (sin, cos) = degrees.to_radians().sin_cos();
    let quarter = |turns: usize| {
        corner.map(|(x, y)| match turns {
            0 => (x, y),
            1 => (-y, x),
            2 => (-x, -y),
            _ => (y, -x),
        })
    };
    let corners = (0..4).flat_map(quarter);
    corners
        .map(|(x, y)| (x * cos - y * sin, x * sin + y * cos))
        .collect()
}

/// The points that no other beats by being more accurate at no more cost, where costs less than
/// [`SAME_COST`] apart count as equal: budgets are met, and times taken, no more exactly than that.
/// As indices, by cost.
fn pareto_front(points: &[(f64, f64)]) -> Vec<usize> {
    let beats = |a: &(f64, f64), b: &(f64, f64)| match a.1 == b.1 {
        true => a.0 < b.0,
        false => a.1 > b.1 && a.0 < b.0 + SAME_COST,
    };
    let unbeaten = |&i: &usize| !points.iter().any(|other| beats(other, &points[i]));
    let mut front: Vec<usize> = (0..points.len()).filter(unbeaten).collect();
    front.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0));
    front
}

/// The smallest and the largest.
fn extent(values: impl Iterator<Item = f64>) -> Range<f64> {
    let wider = |r: Range<f64>, value: f64| r.start.min(value)..r.end.max(value);
    values.fold(f64::INFINITY..f64::NEG_INFINITY, wider)
}

/// What an axis shows: all points, and their bars unless these are far longer than the points are
/// apart (as with two seeds, whose t-interval is 13 standard errors wide).
fn shown(means: &[Mean], limits: Range<f64>) -> Range<f64> {
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

/// Draws cells as SVG: a line for each policy over its budgets with 95% intervals over seeds, the
/// dense model, and the Pareto front.
///
/// # Errors
///
/// What the drawing library says.
pub fn plot_svg(cells: &[Cell], against: Against) -> Result<String, String> {
    let mut svg = String::new();
    let lines = lines(cells, against);
    draw(&mut svg, cells, against, &lines).map_err(|error| error.to_string())?;
    Ok(svg)
}

/// The policies' lines, and the baseline's at the end.
fn lines(cells: &[Cell], against: Against) -> Vec<Line> {
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

type Failure = Box<dyn std::error::Error>;
type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn text(size: f64, color: &RGBColor) -> TextStyle<'_> {
    // The SVG backend divides by as much.
    let font = ("sans-serif", 1.24 * size).into_font();
    TextStyle::from(font).color(color)
}

fn draw(svg: &mut String, cells: &[Cell], against: Against, lines: &[Line]) -> Result<(), Failure> {
    let points: Vec<(&Line, Point)> = lines
        .iter()
        .flat_map(|line| line.points.iter().map(move |&point| (line, point)))
        .collect();
    if points.is_empty() {
        return Err("no cell".into());
    }
    let xs: Vec<Mean> = points.iter().map(|(_, point)| point.x).collect();
    let ys: Vec<Mean> = points.iter().map(|(_, point)| point.y).collect();
    let (xs, ys) = (shown(&xs, 0.0..f64::INFINITY), shown(&ys, 0.0..100.0));

    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(against.title(), (64, 14), text(18.0, &BLACK)))?;
    let counts = extent(points.iter().map(|(_, point)| point.y.count as f64));
    let seeds = match counts.start == counts.end {
        true => counts.end.to_string(),
        false => format!("{} to {}", counts.start, counts.end),
    };
    let images = cells.iter().map(|cell| cell.test_images).max();
    let beside = match lines.iter().any(|line| line.beside != 0) {
        true => "; policies of a budget set side by side",
        false => "",
    };
    let subtitle = format!(
        "{} test images; mean over seeds (n = {seeds}), bars: 95% t-interval{beside}",
        images.unwrap_or(0)
    );
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
    let pixel = |line: &Line, at: (f64, f64)| {
        let (x, y) = chart.plotting_area().map_coordinate(&at);
        (x + line.beside, y)
    };

    if let Some((line, dense)) = points.iter().find(|(line, _)| line.policy == DENSE) {
        let [from, to] = [xs.start, xs.end].map(|x| pixel(line, (x, dense.y.mean)));
        dashes(&root, from, to)?;
    }
    let front = pareto_front(&points.iter().map(|(_, p)| p.at()).collect::<Vec<_>>());
    let front = front.iter().map(|&i| pixel(points[i].0, points[i].1.at()));
    let front: Vec<(i32, i32)> = front.collect();
    // Under the policies' lines, wider than they are.
    root.draw(&PathElement::new(front.clone(), WIDE.stroke_width(6)))?;
    for line in lines {
        let path = line.points.iter().map(|point| pixel(line, point.at()));
        let style = line.color.stroke_width(2);
        root.draw(&PathElement::new(path.collect::<Vec<_>>(), style))?;
    }
    for (line, point) in &points {
        let (x, y) = point.at();
        if let Some(half) = point.y.half_width {
            let ends = [y - half, y + half].map(|end| {
                let shown = end.clamp(ys.start, ys.end);
                (pixel(line, (x, shown)), shown == end)
            });
            bar(&root, ends, (4, 0), line.color)?;
        }
        if let Some(half) = point.x.half_width.filter(|_| against == Against::Time) {
            let ends = [x - half, x + half].map(|end| {
                let shown = end.clamp(xs.start, xs.end);
                (pixel(line, (shown, y)), shown == end)
            });
            bar(&root, ends, (0, 4), line.color)?;
        }
    }
    for (line, point) in &points {
        mark(&root, pixel(line, point.at()), line.marker, line.color)?;
    }
    for &point in &front {
        ring(&root, point)?;
    }
    legend(&root, (legend_left + 12, 84), lines)?;
    root.present()?;
    Ok(())
}

/// Lines' names, beside the chart.
fn legend(root: &Canvas<'_>, (x, top): (i32, i32), lines: &[Line]) -> Result<(), Failure> {
    let name = |y: i32, name: &str, size: f64| {
        let style = text(size, &BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(name.to_string(), (x + 44, y), style))
    };
    let sample = |y: i32| [(x, y), (x + 34, y)];
    let step = (380 / (lines.len() as i32 + 2)).clamp(14, 28);
    let mut y = top;
    for line in lines {
        let [from, to] = sample(y);
        match line.policy == DENSE {
            true => dashes(root, from, to)?,
            false => root.draw(&PathElement::new([from, to], line.color.stroke_width(2)))?,
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

/// As many digits as an axis of this length needs.
fn tick(range: &Range<f64>) -> impl Fn(&f64) -> String + use<> {
    let digits = match range.end - range.start {
        length if length >= 8.0 => 0,
        length if length >= 0.8 => 1,
        _ => 2,
    };
    move |value| format!("{value:.digits$}")
}

/// A point, with a white edge where it lies on others.
fn mark(root: &Canvas<'_>, at: (i32, i32), marker: Marker, color: RGBColor) -> Result<(), Failure> {
    for (radius, color) in [(7.5, WHITE), (6.0, color)] {
        match marker.corners(at, radius) {
            Some(corners) => root.draw(&Polygon::new(corners, color.filled()))?,
            None => root.draw(&Circle::new(at, radius.round() as i32, color.filled()))?,
        }
    }
    Ok(())
}

fn ring(root: &Canvas<'_>, at: (i32, i32)) -> Result<(), Failure> {
    root.draw(&Circle::new(at, 11, FRONT.stroke_width(2)))?;
    Ok(())
}

/// An interval, with a cap at each end that is one and not the edge of the chart.
fn bar(
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
fn dashes(root: &Canvas<'_>, from: (i32, i32), to: (i32, i32)) -> Result<(), Failure> {
    for x in (from.0..to.0).step_by(8) {
        let dash = vec![(x, from.1), ((x + 4).min(to.0), from.1)];
        root.draw(&PathElement::new(dash, GUIDE.stroke_width(1)))?;
    }
    Ok(())
}

/// Renders a plot as PNG, 1800 pixels wide, with a font that is part of the program.
///
/// # Errors
///
/// What the renderer says.
pub fn plot_png(svg: &str) -> Result<Vec<u8>, String> {
    let mut options = usvg::Options::default();
    let fonts = options.fontdb_mut();
    let source = usvg::fontdb::Source::Binary(Arc::new(UBUNTU_LIGHT));
    let face = fonts.load_font_source(source).first().copied();
    let family = face.and_then(|face| Some(fonts.face(face)?.families.first()?.0.clone()));
    fonts.set_sans_serif_family(family.ok_or("the program's font is damaged")?);
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let [width, height] = [tree.size().width(), tree.size().height()].map(|x| (x * SCALE) as u32);
    let mut image = tiny_skia::Pixmap::new(width, height).ok_or("the picture has no size")?;
    let scale = tiny_skia::Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, scale, &mut image.as_mut());
    image.encode_png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::synthetic;
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

    #[test]
    fn a_plot_names_every_policy_and_its_axes() {
        let cells = synthetic::sweep(50);
        for (against, axis) in [
            (Against::Flops, "FLOPs per image"),
            (Against::Time, "time per image"),
        ] {
            let svg = plot_svg(&cells, against).unwrap();
            for text in [
                "tome",
                "random",
                "evit",
                "dense",
                "Pareto front",
                "test accuracy (%)",
                axis,
            ] {
                assert!(svg.contains(text), "{text}");
            }
            let bad = svg.find("NaN").or(svg.find("inf,"));
            assert_eq!(bad.map(|at| &svg[at.saturating_sub(80)..at + 20]), None);
        }
    }

    #[test]
    fn one_cell_is_enough_and_none_is_an_error() {
        let cell = synthetic::cell("tome", 0.5, 0, 20);
        assert!(plot_svg(&[cell], Against::Time).is_ok());
        assert!(plot_svg(&[], Against::Time).is_err());
    }

    #[test]
    fn the_bitmap_has_text_without_the_systems_fonts() {
        let svg = |text: &str| {
            format!(
                "<svg width=\"100\" height=\"40\" xmlns=\"http://www.w3.org/2000/svg\">\
                 <text x=\"5\" y=\"25\" font-family=\"sans-serif\" font-size=\"20\">{text}</text></svg>"
            )
        };
        let [with, without] = ["accuracy", ""].map(|text| plot_png(&svg(text)).unwrap());
        assert_eq!(&with[1..4], b"PNG");
        let [with, without] =
            [with, without].map(|png| tiny_skia::Pixmap::decode_png(&png).unwrap());
        assert_eq!((with.width(), with.height()), (200, 80));
        let inked =
            |image: &tiny_skia::Pixmap| image.pixels().iter().filter(|p| p.alpha() > 0).count();
        assert!(inked(&with) > 300 && inked(&without) == 0);
    }
}
