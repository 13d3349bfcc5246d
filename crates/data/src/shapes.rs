//! Generated images: one bright figure on dull clutter, with the figure's place known.
//!
//! For a first run without a download, and for scoring what a pruner keeps against the truth.

use crate::dataset::{Content, StoredImage};
use crate::figure::Figure;
use crate::shape_image::{LARGEST_FIGURE, ShapeImage, Split};
use crate::{DataError, ImageDataset, Progress, Splits};
use rayon::prelude::*;

/// Images up to this side are generated when the dataset is loaded, and kept.
const KEPT_SIDE: u32 = 64;

/// A smaller figure is some pixels that nobody could name.
const SMALLEST_FIGURE: f64 = 0.05;

/// Makes both splits: image `i` of a split is a pure function of seed, split, `i`, size and
/// `figure`, and its class is `i` modulo the number of classes.
pub(crate) fn load(
    size: u32,
    figure: f64,
    [train, test]: [usize; 2],
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
    if !(SMALLEST_FIGURE..=LARGEST_FIGURE).contains(&figure) {
        return Err(DataError::Setting {
            field: "data.figure",
            found: figure.to_string(),
            expected: "0.05 to 0.55 of the side",
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
                    figure: figure as f32,
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
        val: None,
        train: split(Split::Train, train),
        test: split(Split::Test, test),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(size: u32, seed: u64) -> Splits {
        load(size, LARGEST_FIGURE, [40, 20], seed, Progress::Hidden).unwrap()
    }

    #[test]
    fn an_image_is_a_pure_function_of_seed_split_place_and_size() {
        let (a, b) = (splits(32, 1), splits(32, 1));
        for i in 0..20 {
            assert_eq!(a.train.image(i).unwrap(), b.train.image(i).unwrap());
            assert_ne!(a.train.image(i).unwrap(), a.test.image(i).unwrap());
        }
        let longer = load(32, LARGEST_FIGURE, [500, 20], 1, Progress::Hidden).unwrap();
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
    fn small_figures_fill_little_of_the_image() {
        let test = load(224, 0.13, [1, 40], 5, Progress::Hidden).unwrap().test;
        for i in 0..test.len() {
            let pixels = test.foreground(i, [224, 224]).unwrap();
            let share = pixels.iter().filter(|&&figure| figure).count() as f64 / 224.0 / 224.0;
            assert!((0.001..0.02).contains(&share), "{}: {share}", test.name(i));
        }
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        for (size, figure, field) in [(0, 0.5, "data.size = 0"), (32, 0.6, "data.figure = 0.6")] {
            let error = load(size, figure, [1, 1], 0, Progress::Hidden).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
