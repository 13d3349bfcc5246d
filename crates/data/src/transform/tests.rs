use super::*;
use crate::samples::picture;

const PLAIN: Normalization = Normalization {
    mean: [0.0; 3],
    std: [1.0; 3],
};

fn eval(img: &RgbImage, size: u32, n: &Normalization) -> Vec<f32> {
    let mut out = vec![f32::NAN; 3 * (size * size) as usize];
    eval_image(img, [size; 2], &EvalTransform::default(), n, &mut out);
    out
}

fn train(img: &RgbImage, size: u32, t: &TrainTransform, seed: u64) -> Vec<f32> {
    let mut out = vec![f32::NAN; 3 * (size * size) as usize];
    train_image(img, [size; 2], t, &PLAIN, seed, &mut out);
    out
}

/// Nothing at random but what a test switches on.
fn still() -> TrainTransform {
    TrainTransform {
        crop_scale: [1.0, 1.0],
        crop_ratio: [1.0, 1.0],
        flip: false,
        pad_crop: 0,
    }
}

/// Each channel's rows, mirrored.
fn mirrored(planes: &[f32], side: usize) -> Vec<f32> {
    let rows = planes.chunks(side);
    rows.flat_map(|row| row.iter().rev().copied()).collect()
}

#[test]
fn an_image_of_the_right_size_passes_through_exactly() {
    let img = picture(16, 16, 40);
    let out = eval(&img, 16, &PLAIN);
    for (i, rgb) in img.pixels.chunks(3).enumerate() {
        for c in 0..3 {
            assert_eq!(out[c * 256 + i], f32::from(rgb[c]) / 255.0);
        }
    }
    assert_eq!(train(&img, 16, &still(), 3), out);
}

#[test]
fn normalisation_takes_out_mean_and_deviation() {
    let white = RgbImage {
        width: 4,
        height: 4,
        pixels: vec![255; 48],
    };
    assert!(
        eval(&white, 4, &Normalization::HALF)
            .iter()
            .all(|&v| v == 1.0)
    );
    let out = eval(&white, 4, &Normalization::IMAGENET);
    assert!((out[16] - (1.0 - 0.456) / 0.224).abs() < 1e-6);
}

#[test]
fn shrinking_averages_all_pixels() {
    // A fine chequerboard: without antialiasing, only one of its colours would be met.
    let pixels = (0..64 * 64).flat_map(|i| [((i + i / 64) % 2 * 200) as u8; 3]);
    let img = RgbImage {
        width: 64,
        height: 64,
        pixels: pixels.collect(),
    };
    for value in eval(&img, 8, &PLAIN) {
        assert!((value * 255.0 - 100.0).abs() < 8.0, "{}", value * 255.0);
    }
}

#[test]
fn any_size_and_any_crop_stays_within_the_range() {
    let t = TrainTransform::default();
    for (width, height) in [(1, 1), (3, 50), (50, 3), (40, 30), (224, 224)] {
        let img = picture(width, height, 100);
        for seed in 0..50 {
            let out = train(&img, 32, &t, seed);
            assert!(out.iter().all(|value| (0.0..=1.0).contains(value)));
        }
    }
}

#[test]
fn the_seed_alone_decides() {
    let img = picture(40, 30, 7);
    let t = TrainTransform::default();
    assert_eq!(train(&img, 24, &t, 5), train(&img, 24, &t, 5));
    assert_ne!(train(&img, 24, &t, 5), train(&img, 24, &t, 6));
}

#[test]
fn half_of_the_images_are_flipped() {
    let img = picture(8, 8, 3);
    let upright = train(&img, 8, &still(), 0);
    let t = TrainTransform {
        flip: true,
        ..still()
    };
    let mut flips = 0;
    for seed in 0..1000 {
        let out = train(&img, 8, &t, seed);
        if out != upright {
            assert_eq!(out, mirrored(&upright, 8));
            flips += 1;
        }
    }
    assert!((450..550).contains(&flips), "{flips} flips in 1000");
}

#[test]
fn a_padded_crop_shifts_the_image_and_fills_with_black() {
    let img = RgbImage {
        width: 8,
        height: 8,
        pixels: vec![255; 192],
    };
    let t = TrainTransform {
        pad_crop: 2,
        ..still()
    };
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..500 {
        let out = train(&img, 8, &t, seed);
        let lit = |start: usize, step: usize| (0..8).map(move |i| out[start + i * step] > 0.0);
        // The centre stays lit for each shift of up to 2.
        let columns: Vec<_> = lit.clone()(4 * 8, 1).collect();
        let rows: Vec<_> = lit(4, 8).collect();
        let missing = |lit: &[bool]| lit.iter().filter(|&&lit| !lit).count();
        seen.insert((missing(&columns), missing(&rows), columns[0], rows[0]));
        assert!(missing(&columns) <= 2 && missing(&rows) <= 2);
    }
    // Two shifts either way, or none, along both axes.
    assert_eq!(seen.len(), 25);
}

#[test]
fn crops_have_the_area_and_ratio_asked_for() {
    let img = picture(100, 80, 0);
    let t = TrainTransform {
        crop_scale: [0.2, 0.5],
        ..TrainTransform::default()
    };
    let mut rng = seed::rng(&[1]);
    for _ in 0..1000 {
        let crop = Crop::random(&img, &t, &mut rng);
        let area = f64::from(crop.width * crop.height) / 8000.0;
        let ratio = f64::from(crop.width) / f64::from(crop.height);
        assert!((0.19..0.51).contains(&area), "{area}");
        assert!((0.72..1.37).contains(&ratio), "{ratio}");
        assert!(crop.left + crop.width <= 100 && crop.top + crop.height <= 80);
    }
}

#[test]
fn a_long_image_falls_back_to_its_centre() {
    let img = picture(300, 10, 0);
    let t = TrainTransform {
        crop_scale: [0.9, 1.0],
        ..TrainTransform::default()
    };
    let crop = Crop::random(&img, &t, &mut seed::rng(&[1]));
    let expected = Crop {
        left: 143,
        top: 0,
        width: 13,
        height: 10,
    };
    assert_eq!(crop, expected);
}

#[test]
fn impossible_ranges_are_named() {
    for crop_scale in [[0.0, 1.0], [0.5, 0.4], [0.5, 1.5], [f32::NAN, 1.0]] {
        let t = TrainTransform {
            crop_scale,
            ..TrainTransform::default()
        };
        let error = t.validate().unwrap_err().to_string();
        assert!(error.contains("crop_scale"), "{error}");
    }
    TrainTransform::default().validate().unwrap();
}

#[test]
fn an_image_need_not_be_square() {
    let img = RgbImage {
        width: 3,
        height: 2,
        pixels: (0..18).collect(),
    };
    let mut out = vec![f32::NAN; 18];
    eval_image(&img, [2, 3], &EvalTransform::default(), &PLAIN, &mut out);
    let expected: Vec<f32> = (0..3)
        .flat_map(|channel| (0..6).map(move |pixel| (3 * pixel + channel) as f32 / 255.0))
        .collect();
    assert_eq!(out, expected);
    let mut out = vec![f32::NAN; 3 * 5 * 7];
    eval_image(&img, [5, 7], &EvalTransform::default(), &PLAIN, &mut out);
    assert!(out.iter().all(|value| (0.0..=17.0 / 255.0).contains(value)));
}

#[test]
fn the_centre_of_the_models_proportions_is_cut_out() {
    let img = RgbImage {
        width: 400,
        height: 200,
        pixels: vec![0; 400 * 200 * 3],
    };
    let crop = |size, share| {
        let crop = Crop::centred(&img, size, share);
        [crop.left, crop.top, crop.width, crop.height]
    };
    // Resized to 256 and cut to 224, the published way.
    assert_eq!(crop([224, 224], 0.875), [112, 12, 175, 175]);
    assert_eq!(crop([224, 224], 1.0), [100, 0, 200, 200]);
    assert_eq!(crop([100, 200], 1.0), [0, 0, 400, 200]);
    assert_eq!(crop([200, 100], 0.5), [175, 50, 50, 100]);
}
