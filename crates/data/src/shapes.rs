//! Generated images: one bright figure on dull clutter, with the figure's place known.
//!
//! For a first run without a download, and for scoring what a pruner keeps against the truth.

use crate::canvas::Canvas;
use crate::dataset::{Content, StoredImage};
use crate::figure::Figure;
use crate::seed::{self, Rng};
use crate::{DataError, ImageDataset, Progress, RgbImage, Splits};
use rand::RngExt;
use rayon::prelude::*;
use std::f32::consts::{PI, TAU};

/// Images up to this side are generated when the dataset is loaded, and kept.
const KEPT_SIDE: u32 = 64;
/// Centres stand at multiples of the side by this, which spares a small ViT from learning each
/// figure at each offset from its patches.
const LATTICE: u32 = 8;
/// A patch with at least this share of figure pixels is foreground.
const FOREGROUND_SHARE: f32 = 0.1;

/// Makes both splits: image `i` of a split is a pure function of seed, split, `i` and size, and
/// its class is `i` modulo the number of classes.
pub(crate) fn load(
    size: u32,
    train: usize,
    test: usize,
    seed: u64,
    progress: Progress,
) -> Result<Splits, DataError> {
    if !(16..=4096).contains(&size) {
        return Err(DataError::Setting {
            field: "data.size",
            found: size.to_string(),
            expected: "16 to 4096 pixels",
        });
    }
    for (field, count) in [("data.train", train), ("data.test", test)] {
        if count == 0 {
            return Err(DataError::Setting {
                field,
                found: "0".into(),
                expected: "at least 1 image",
            });
        }
    }
    let meter = crate::progress::Meter::new(
        progress,
        "drawing shapes",
        crate::progress::Unit::Images,
        Some((train + test) as u64),
    );
    let split = |split: Split, count: usize| {
        let images = (0..count)
            .into_par_iter()
            .map(|index| {
                let shape = ShapeImage {
                    seed,
                    split,
                    index,
                    size,
                };
                meter.add(1);
                StoredImage {
                    name: format!("{}/shapes#{index}", split.name()),
                    label: index % Figure::ALL.len(),
                    content: Content::Shape(shape, (size <= KEPT_SIDE).then(|| shape.render())),
                }
            })
            .collect();
        let names = Figure::ALL.iter().map(|figure| figure.name().into());
        ImageDataset::new(names.collect(), images)
    };
    Ok(Splits {
        train: split(Split::Train, train),
        test: split(Split::Test, test),
    })
}

/// Which half of the generated images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Train,
    Test,
}

impl Split {
    fn name(self) -> &'static str {
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
}

impl ShapeImage {
    pub fn render(&self) -> RgbImage {
        let mut rng = self.rng();
        // First, so that `foreground` can place it without drawing the clutter.
        let placed = Placed::random(self.figure(), &mut rng);
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
        let placed = Placed::random(self.figure(), &mut self.rng());
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

    fn figure(&self) -> Figure {
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
    fn random(figure: Figure, rng: &mut Rng) -> Self {
        let scale = rng.random_range(0.4..0.55f32) / 2.0;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(size: u32, seed: u64) -> Splits {
        load(size, 40, 20, seed, Progress::Hidden).unwrap()
    }

    #[test]
    fn an_image_is_a_pure_function_of_seed_split_place_and_size() {
        let (a, b) = (splits(32, 1), splits(32, 1));
        for i in 0..20 {
            assert_eq!(a.train.image(i).unwrap(), b.train.image(i).unwrap());
            assert_ne!(a.train.image(i).unwrap(), a.test.image(i).unwrap());
        }
        let longer = load(32, 500, 20, 1, Progress::Hidden).unwrap();
        assert_eq!(longer.train.image(39).unwrap(), a.train.image(39).unwrap());
        let other = splits(32, 2);
        assert_ne!(other.train.image(0).unwrap(), a.train.image(0).unwrap());
    }

    #[test]
    fn labels_are_balanced() {
        let train = splits(32, 0).train;
        for class in 0..train.num_classes() {
            let count = (0..train.len()).filter(|&i| train.label(i) == class);
            assert_eq!(count.count(), 4);
        }
    }

    #[test]
    fn large_images_are_drawn_when_asked_for_and_show_the_same_kind_of_thing() {
        let large = splits(96, 0).test;
        let image = large.image(3).unwrap();
        assert_eq!((image.width, image.height), (96, 96));
        assert_eq!(image, large.image(3).unwrap());
        assert_eq!(large.name(3), "test/shapes#3");
    }

    /// How far a pixel is from grey, weighted by its brightness.
    fn colourfulness(pixel: &[u8]) -> f64 {
        let max = pixel.iter().max().unwrap();
        f64::from(max - pixel.iter().min().unwrap())
    }

    #[test]
    fn foreground_patches_are_where_the_colour_is() {
        let test = splits(32, 5).test;
        for i in 0..test.len() {
            let image = test.image(i).unwrap();
            let foreground = test.foreground(i, [8, 8]).unwrap();
            let mut sums = [[0.0; 2]; 2];
            for (p, pixel) in image.pixels.chunks(3).enumerate() {
                let patch = p / 32 / 4 * 8 + p % 32 / 4;
                let sum = &mut sums[usize::from(foreground[patch])];
                sum[0] += colourfulness(pixel);
                sum[1] += 1.0;
            }
            let [background, figure] = sums.map(|[sum, count]| sum / count);
            assert!(
                figure > 1.5 * background,
                "{}: {figure:.0} against {background:.0}",
                test.name(i)
            );
        }
    }

    #[test]
    fn a_grid_of_pixels_shows_the_figure_and_a_grid_of_one_holds_it() {
        let test = splits(32, 5).test;
        for i in 0..test.len() {
            let pixels = test.foreground(i, [32, 32]).unwrap();
            let share = pixels.iter().filter(|&&figure| figure).count() as f64 / 1024.0;
            assert!((0.03..0.31).contains(&share), "{}: {share}", test.name(i));
            let patches = test.foreground(i, [8, 8]).unwrap();
            let kept = patches.iter().filter(|&&figure| figure).count();
            assert!((4..40).contains(&kept), "{}: {kept} patches", test.name(i));
        }
        assert_eq!(test.foreground(0, [0, 0]), Some(vec![]));
        assert_eq!(test.foreground(0, [100, 100]).unwrap().len(), 10_000);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        let error = load(0, 1, 1, 0, Progress::Hidden).unwrap_err().to_string();
        assert!(error.contains("data.size = 0"), "{error}");
    }
}
