//! How the cost grows: timed, and as FLOPs promise.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::backend::Environment;

const MODEL: &str = "vit-s16";
const KEEP_RATES: [f64; 10] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1];
const IMAGE_SIZES: [f64; 5] = [112.0, 160.0, 224.0, 320.0, 448.0];
/// The size whose timed pass is the start of the FLOPs curve.
const ANCHOR: f64 = 224.0;

#[derive(Debug, Parser)]
pub struct Curves {
    /// Where the figures and their data go
    #[arg(long, value_name = "DIR", default_value = "docs/figures")]
    out: PathBuf,
    /// Timed rounds at each point
    #[arg(long, value_name = "N", default_value = "7")]
    repeats: usize,
    /// Time nothing; draw what was recorded there before
    #[arg(long)]
    draw: bool,
}

/// One timed point.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Point {
    /// Keep rate or image size.
    x: f64,
    dense_images_per_s: f64,
    images_per_s: f64,
    dense_flops: f64,
    flops: f64,
    speedup: f64,
    theoretical_speedup: f64,
}

/// The part of `aptvit bench`'s rows that is used.
#[derive(Debug, Deserialize)]
struct Row {
    images_per_s: f64,
    flops_per_image: f64,
    speedup: f64,
    theoretical_speedup: f64,
}

pub fn run(args: &Curves) -> Result<ExitCode> {
    let (by_keep, by_size) = (args.out.join("keep.json"), args.out.join("size.json"));
    if !args.draw {
        fs::create_dir_all(&args.out)
            .with_context(|| format!("cannot create {}", args.out.display()))?;
        let program = crate::build("flex", &Environment::default())?;
        let time = |path: &Path, xs: &[f64], batch: &str, keep: &dyn Fn(f64) -> [String; 4]| {
            let points = xs
                .iter()
                .map(|&x| time(&program, x, batch, keep(x), args.repeats));
            let points = points.collect::<Result<Vec<_>>>()?;
            let text = serde_json::to_string_pretty(&points)?;
            fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
        };
        let [keep, size] = ["--keep", "--image-size"].map(str::to_string);
        time(&by_keep, &KEEP_RATES, "8", &|x| {
            [
                keep.clone(),
                x.to_string(),
                size.clone(),
                ANCHOR.to_string(),
            ]
        })?;
        time(&by_size, &IMAGE_SIZES, "4", &|x| {
            [keep.clone(), "0.7".into(), size.clone(), x.to_string()]
        })?;
    }
    draw_keep(&read(&by_keep)?, &args.out.join("keep.svg"))?;
    draw_size(&read(&by_size)?, &args.out.join("size.svg"))?;
    println!("{0}/keep.svg and {0}/size.svg", args.out.display());
    Ok(ExitCode::SUCCESS)
}

fn time(
    program: &Path,
    x: f64,
    batch: &str,
    settings: [String; 4],
    repeats: usize,
) -> Result<Point> {
    eprintln!("{MODEL}, batch {batch}, {}", settings.join(" "));
    let output = Command::new(program)
        .args(["bench", "--json", "--model", MODEL, "--batch", batch])
        .args(settings)
        .args(["--repeats", &repeats.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("aptvit bench failed");
    }
    let text = String::from_utf8(output.stdout)?;
    let rows = text.lines().map(serde_json::from_str::<Row>);
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let [dense, dropped] = rows.as_slice() else {
        bail!(
            "aptvit bench gave {} rows; expected dense and drop",
            rows.len()
        );
    };
    Ok(Point {
        x,
        dense_images_per_s: dense.images_per_s,
        images_per_s: dropped.images_per_s,
        dense_flops: dense.flops_per_image,
        flops: dropped.flops_per_image,
        speedup: dropped.speedup,
        theoretical_speedup: dropped.theoretical_speedup,
    })
}

fn read(path: &Path) -> Result<Vec<Point>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

/// A line of points with a name.
struct Series<'a> {
    name: &'a str,
    color: RGBColor,
    timed: bool,
    points: Vec<(f64, f64)>,
}

fn draw_keep(points: &[Point], path: &Path) -> Result<()> {
    let series = [
        Series {
            name: "timed",
            color: BLUE,
            timed: true,
            points: points.iter().map(|p| (p.x, p.speedup)).collect(),
        },
        Series {
            name: "counted FLOPs, agents included",
            color: BLACK,
            timed: false,
            points: points
                .iter()
                .map(|p| (p.x, p.theoretical_speedup))
                .collect(),
        },
    ];
    draw(
        path,
        "ViT-S/16, batch 8: dropped against dense",
        ["layer keep rate after blocks 2, 5 and 8", "speed-up"],
        &series,
    )
}

fn draw_size(points: &[Point], path: &Path) -> Result<()> {
    let anchor = points.iter().find(|point| point.x == ANCHOR);
    let anchor = anchor.context("no point at 224 pixels")?;
    let timed = |value: fn(&Point) -> f64| points.iter().map(|p| (p.x, value(p).log10())).collect();
    // At the speed of the dense pass at 224.
    let counted = |flops: fn(&Point) -> f64| {
        let speed = anchor.dense_images_per_s * anchor.dense_flops;
        points
            .iter()
            .map(|p| (p.x, (speed / flops(p)).log10()))
            .collect()
    };
    let series = [
        Series {
            name: "dense, timed",
            color: BLUE,
            timed: true,
            points: timed(|p| p.dense_images_per_s),
        },
        Series {
            name: "dropped at 0.7, timed",
            color: RED,
            timed: true,
            points: timed(|p| p.images_per_s),
        },
        Series {
            name: "as FLOPs promise from dense at 224",
            color: BLACK,
            timed: false,
            points: counted(|p| p.dense_flops),
        },
        Series {
            name: "the same, dropped",
            color: RGBColor(130, 130, 130),
            timed: false,
            points: counted(|p| p.flops),
        },
    ];
    draw(
        path,
        "ViT-S/16, batch 4: throughput against image size",
        ["image size in pixels", "log10 of images/s"],
        &series,
    )
}

fn draw(path: &Path, title: &str, axes: [&str; 2], series: &[Series<'_>]) -> Result<()> {
    let all = || series.iter().flat_map(|series| &series.points);
    let range = |value: fn(&(f64, f64)) -> f64| {
        let low = all().map(value).fold(f64::INFINITY, f64::min);
        let high = all().map(value).fold(f64::NEG_INFINITY, f64::max);
        let margin = 0.05 * (high - low);
        low - margin..high + margin
    };
    let root = SVGBackend::new(path, (720, 440)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(range(|p| p.0), range(|p| p.1))?;
    chart
        .configure_mesh()
        .x_desc(axes[0])
        .y_desc(axes[1])
        .light_line_style(TRANSPARENT)
        .draw()?;
    for Series {
        name,
        color,
        timed,
        points,
    } in series
    {
        let color = *color;
        chart
            .draw_series(LineSeries::new(
                points.iter().copied(),
                color.stroke_width(2),
            ))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
        if *timed {
            let dots = points
                .iter()
                .map(|&point| Circle::new(point, 4, color.filled()));
            chart.draw_series(dots)?;
        }
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .position(SeriesLabelPosition::UpperRight)
        .draw()?;
    root.present()?;
    Ok(())
}
