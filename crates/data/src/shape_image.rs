//! One generated image: where its figure is, and how it is drawn.

use crate::RgbImage;
use crate::canvas::Canvas;
use crate::figure::Figure;
use crate::seed::{self, Rng};
use rand::RngExt;
use std::f32::consts::{PI, TAU};

/// Centres stand at multiples of the side by this, which spares a small ViT from learning each
/// figure at each offset from its patches.
const LATTICE: u32 = 8;
/// What a figure measures at most, as a share of the image's side, where nobody says otherwise.
pub(crate) const LARGEST_FIGURE: f64 = 0.55;
/// A patch with at least this share of figure pixels is foreground.
const FOREGROUND_SHARE: f32 = 0.1;

/// Which half of the generated images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Train,
    Test,
}

impl Split {
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// All that is needed to draw one image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShapeImage {
    pub seed: u64,
    pub split: Split,
    pub index: usize,
    pub size: u32,
    /// The most that the figure measures, as a share of the side.
    pub figure: f32,
}

impl ShapeImage {
    pub fn render(&self) -> RgbImage {
        let mut rng = self.rng();
        // First, so that `foreground` can place it without drawing the clutter.
        let placed = Placed::random(self.kind(), self.figure, &mut rng);
        let colour = bright(&mut rng);
        let mut canvas = Canvas::new(self.size, dull(&mut rng));
        draw_clutter(&mut canvas, &mut rng);
        canvas.fill(placed.centre, placed.radius, colour, |x, y| {
            placed.contains(x, y)
        });
        draw_specks(&mut canvas, &mut rng);
        canvas.finish(&mut rng)
    }

    pub fn foreground(&self, grid: [usize; 2]) -> Vec<bool> {
        let placed = Placed::random(self.kind(), self.figure, &mut self.rng());
        let mut mask = Canvas::new(self.size, [0.0; 3]);
        mask.fill(placed.centre, placed.radius, [1.0; 3], |x, y| {
            placed.contains(x, y)
        });
        let size = self.size as usize;
        let span = |patch: usize, of: usize| {
            let start = patch * size / of;
            start..((patch + 1) * size / of).max(start + 1)
        };
        let [down, across] = grid;
        let is_foreground = |patch: usize| {
            let (rows, columns) = (span(patch / across, down), span(patch % across, across));
            let area = rows.len() * columns.len();
            let figure = rows
                .flat_map(|y| columns.clone().map(move |x| y * size + x))
                .filter(|&pixel| mask.pixels[pixel][0] >= 0.5)
                .count();
            figure as f32 >= FOREGROUND_SHARE * area as f32
        };
        (0..down * across).map(is_foreground).collect()
    }

    fn kind(&self) -> Figure {
        Figure::ALL[self.index % Figure::ALL.len()]
    }

    fn rng(&self) -> Rng {
        seed::rng(&[
            self.seed,
            self.split as u64,
            self.index as u64,
            u64::from(self.size),
        ])
    }
}

/// A figure's place; all lengths are shares of the image's side.
struct Placed {
    figure: Figure,
    centre: [f32; 2],
    /// Of the circle around the figure.
    radius: f32,
    scale: f32,
    turn: [f32; 2],
}

impl Placed {
    fn random(figure: Figure, largest: f32, rng: &mut Rng) -> Self {
        let scale = rng.random_range(0.4..0.55f32) / 2.0 * (largest / LARGEST_FIGURE as f32);
        // A figure may just touch the border.
        let nearest = (0.95 * scale * LATTICE as f32).ceil() as u32;
        let place = |place: u32| place as f32 / LATTICE as f32;
        let centre = [0, 1].map(|_| place(rng.random_range(nearest..=LATTICE - nearest)));
        let angle: f32 = rng.random_range(-PI / 30.0..PI / 30.0);
        Self {
            figure,
            centre,
            radius: scale * 1.3,
            scale,
            turn: [angle.cos(), angle.sin()],
        }
    }

    fn contains(&self, x: f32, y: f32) -> bool {
        let [dx, dy] = [x - self.centre[0], y - self.centre[1]].map(|d| d / self.scale);
        let [cos, sin] = self.turn;
        self.figure
            .contains(cos * dx + sin * dy, cos * dy - sin * dx)
    }
}

/// Lines and blobs that are either dull or dark, over the whole image.
fn draw_clutter(canvas: &mut Canvas, rng: &mut Rng) {
    for _ in 0..8 {
        let centre = [0, 1].map(|_| rng.random_range(0.0..1.0f32));
        let radius = rng.random_range(0.03..0.09f32);
        let colour = clutter(rng);
        canvas.fill(centre, radius, colour, |x, y| {
            (x - centre[0]).hypot(y - centre[1]) <= radius
        });
    }
    for _ in 0..6 {
        let centre = [0, 1].map(|_| rng.random_range(0.0..1.0f32));
        let half_length = rng.random_range(0.1..0.35f32);
        let half_width = rng.random_range(0.008..0.02f32);
        let (sin, cos) = rng.random_range(0.0..TAU).sin_cos();
        let colour = clutter(rng);
        canvas.fill(centre, half_length, colour, |x, y| {
            let [dx, dy] = [x - centre[0], y - centre[1]];
            (cos * dx + sin * dy).abs() <= half_length && (cos * dy - sin * dx).abs() <= half_width
        });
    }
}

/// Tiny dots as bright as the figure, so that the brightest or most colourful pixel does not
/// give the figure away.
fn draw_specks(canvas: &mut Canvas, rng: &mut Rng) {
    for _ in 0..5 {
        let centre = [0, 1].map(|_| rng.random_range(0.0..1.0f32));
        let colour = bright(rng);
        canvas.fill(centre, 0.02, colour, |x, y| {
            (x - centre[0]).hypot(y - centre[1]) <= 0.018
        });
    }
}

/// A figure's colour.
fn bright(rng: &mut Rng) -> [f32; 3] {
    let hue = rng.random_range(0.0..6.0);
    hsv(
        hue,
        rng.random_range(0.55..0.85),
        rng.random_range(0.9..1.0),
    )
}

/// A background's colour.
fn dull(rng: &mut Rng) -> [f32; 3] {
    let hue = rng.random_range(0.0..6.0);
    hsv(
        hue,
        rng.random_range(0.0..0.25),
        rng.random_range(0.15..0.45),
    )
}

/// Grey of any brightness below the figures', or colourful but dark.
fn clutter(rng: &mut Rng) -> [f32; 3] {
    let hue = rng.random_range(0.0..6.0);
    if rng.random_bool(0.5) {
        hsv(
            hue,
            rng.random_range(0.0..0.2),
            rng.random_range(0.05..0.45),
        )
    } else {
        hsv(hue, rng.random_range(0.3..0.7), rng.random_range(0.1..0.35))
    }
}

/// Hue from 0 to 6, saturation and value from 0 to 1.
fn hsv(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|offset: f32| {
        let k = (offset + hue) % 6.0;
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}
