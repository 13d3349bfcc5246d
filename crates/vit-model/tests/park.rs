//! Parked tokens: no block computes them, and CLS reads them.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;

use apt_vit_model::{
    Drift, ExecutionMode, Merge, Observation, Park, Placement, Precision, Reading, Reduction,
    RunSettings, TokenReducer, Vit, VitConfig, VitOutput, VitPreset, vit_flops,
};
use burn::prelude::*;
use burn::tensor::{Distribution, Tolerance};

use common::alone;

fn model(layers: usize, device: &Device) -> (Vit, VitConfig) {
    let config = VitConfig {
        num_layers: layers,
        num_classes: 5,
        dropout: 0.0,
        layer_scale: Some(0.7),
        ..VitPreset::Tiny32.config()
    };
    device.seed(3);
    let vit = config.init(device).unwrap();
    let loud = Distribution::Normal(0.0, 1.0);
    (vit.map_head(|weight| weight.random_like(loud)), config)
}

fn images(device: &Device) -> Tensor<4> {
    Tensor::random([3, 3, 32, 32], Distribution::Normal(0.0, 1.0), device)
}

/// Each block hears parked tokens as others, but for `bias`, and tokens become `scale` times themselves in each half.
fn readings(config: &VitConfig, bias: f32, scale: f32, device: &Device) -> Arc<[Reading]> {
    let drift = || Drift {
        scale: Tensor::full([config.hidden_size], scale, device),
        shift: Tensor::zeros([config.hidden_size], device),
    };
    let reading = |_| Reading {
        bias: Tensor::full([config.num_heads], bias, device),
        drifts: [drift(), drift()],
    };
    (0..config.num_layers).map(reading).collect()
}

fn run(vit: &Vit, images: Tensor<4>, mode: ExecutionMode, reducer: &dyn TokenReducer) -> VitOutput {
    let reducer = Some(reducer);
    vit.forward(images, RunSettings { mode, reducer })
}

fn assert_close(found: Tensor<2>, expected: Tensor<2>) {
    let close = Tolerance::<f32>::rel_abs(1e-4, 1e-4);
    let expected = expected.into_data();
    found.into_data().assert_approx_eq::<f32>(&expected, close);
}

/// After block 0, every patch is parked.
struct All(Arc<[Reading]>);

impl TokenReducer for All {
    fn placement(&self, layer: usize) -> Option<Placement> {
        (layer == 0).then_some(Placement::AfterBlock)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let rows = observation.sequences.num_rows();
        let park = Park {
            rows: vec![true; rows],
            recall: Vec::new(),
            readings: self.0.clone(),
        };
        Reduction {
            park: Some(park),
            ..Reduction::keep(vec![false; rows])
        }
    }
}

#[test]
fn cls_reads_parked_tokens_as_if_they_were_there() {
    let _alone = alone();
    let device = Device::default();
    let (vit, config) = model(2, &device);
    let images = images(&device);
    let dense = vit.forward(images.clone(), RunSettings::DENSE).logits;
    let reducer = All(readings(&config, 0.0, 1.0, &device));
    for mode in [ExecutionMode::Drop, ExecutionMode::Mask] {
        let found = run(&vit, images.clone(), mode, &reducer);
        assert_eq!(found.trace[0].left, [1; 3]);
        assert_eq!(found.trace[0].parked, [64; 3]);
        assert_close(found.logits, dense.clone());
    }
    let packed = vit.clone().keep_readers().prepack();
    let found = run(&packed, images.clone(), ExecutionMode::Drop, &reducer);
    assert_close(found.logits, dense.clone());
    let unheard = All(readings(&config, f32::NEG_INFINITY, 1.0, &device));
    let found = run(&vit, images, ExecutionMode::Drop, &unheard);
    let moved = (found.logits - dense).abs().max().into_scalar::<f32>();
    assert!(moved > 1e-2, "{moved}");
}

/// As [`All`], but of images from this one on.
struct From {
    first: usize,
    readings: Arc<[Reading]>,
}

impl TokenReducer for From {
    fn placement(&self, layer: usize) -> Option<Placement> {
        (layer == 0).then_some(Placement::AfterBlock)
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let keep = (0..sequences.batch()).flat_map(|slot| {
            let keep = sequences.image(slot) < self.first;
            vec![keep; sequences.positions(slot).len()]
        });
        let keep: Vec<bool> = keep.collect();
        let park = Park {
            rows: vec![true; keep.len()],
            recall: Vec::new(),
            readings: self.readings.clone(),
        };
        Reduction {
            park: Some(park),
            ..Reduction::keep(keep)
        }
    }
}

#[test]
fn every_part_of_a_batch_says_how_many_tokens_of_its_images_are_parked() {
    let _alone = alone();
    let device = Device::default();
    let (vit, config) = model(2, &device);
    let images = Tensor::random([40, 3, 32, 32], Distribution::Default, &device);
    let readings = readings(&config, 0.0, 1.0, &device);
    let first = 35;
    let reducer = From { first, readings };
    let two = rayon::ThreadPoolBuilder::new().num_threads(2);
    let two = two.build().unwrap();
    let found = two.install(|| run(&vit, images, ExecutionMode::Drop, &reducer));
    let parked: Vec<usize> = (0..40)
        .map(|image| if image < first { 0 } else { 64 })
        .collect();
    assert_eq!(found.trace[0].parked, parked);
}

#[test]
fn what_cannot_be_read_is_removed() {
    let _alone = alone();
    let device = Device::default();
    let (vit, config) = model(2, &device);
    let images = images(&device);
    let parks = All(readings(&config, 0.0, 1.0, &device));
    let unheard = All(readings(&config, f32::NEG_INFINITY, 1.0, &device));
    let removed = run(&vit, images.clone(), ExecutionMode::Drop, &unheard);
    let found = run(&vit.prepack(), images, ExecutionMode::Drop, &parks);
    assert_eq!(found.trace[0].parked, [0; 3]);
    assert_close(found.logits, removed.logits);
}

#[test]
fn parked_tokens_are_read_in_every_precision() {
    let _alone = alone();
    let device = Device::default();
    let (vit, config) = model(2, &device);
    let images = images(&device);
    let reducer = All(readings(&config, 0.0, 1.0, &device));
    let supported = Precision::ALL.into_iter();
    for precision in supported.filter(|precision| precision.is_supported(&device)) {
        let vit = vit.clone().with_precision(precision);
        let packed = vit.keep_readers().prepack();
        let dense = packed.forward(images.clone(), RunSettings::DENSE).logits;
        let found = run(&packed, images.clone(), ExecutionMode::Drop, &reducer).logits;
        let scale = dense.clone().abs().mean().into_scalar::<f32>();
        let moved = (found - dense).abs().mean().into_scalar::<f32>();
        assert!(
            moved < 0.05 * scale,
            "{}: {moved} of {scale}",
            precision.name()
        );
    }
}

#[test]
fn reading_costs_little_and_is_counted() {
    let _alone = alone();
    let device = Device::default();
    let (vit, config) = model(3, &device);
    let reducer = All(readings(&config, 0.0, 1.0, &device));
    let parked = run(&vit, images(&device), ExecutionMode::Drop, &reducer);
    let mut gone = parked.trace.clone();
    gone.iter_mut().for_each(|entry| entry.parked.fill(0));
    let (hidden, heads) = (config.hidden_size as u64, config.num_heads as u64);
    let read = 6 * hidden * hidden + 6 * hidden + 4 * 64 * hidden * heads;
    let cost = vit_flops(&config, &parked.trace, 0) - vit_flops(&config, &gone, 0);
    assert_eq!(cost, 2 * read);
}

/// In each block some of the rows go, by their position and image; some merge, most are parked, and some come back.
struct Several(Arc<[Reading]>);

impl TokenReducer for Several {
    fn placement(&self, layer: usize) -> Option<Placement> {
        Some(if layer.is_multiple_of(2) {
            Placement::AfterAttention
        } else {
            Placement::AfterBlock
        })
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let (layer, sequences) = (observation.layer, observation.sequences);
        let mut keep = vec![true; sequences.num_rows()];
        let mut rows = keep.clone();
        let mut merge = Merge {
            into: (0..keep.len()).collect(),
            weights: vec![1.0; keep.len()],
            proportion: Some(0.6),
        };
        for (slot, span) in sequences.starts().windows(2).enumerate() {
            let mut before = None;
            for (row, &position) in (span[0]..span[1]).zip(sequences.positions(slot)) {
                if position == 0 || !sequences.visible()[row] {
                    continue;
                }
                keep[row] = !(7 * position + 3 * layer + sequences.image(slot)).is_multiple_of(5);
                rows[row] = !position.is_multiple_of(4);
                if let Some(before) = before.filter(|_| !keep[row] && layer == 1) {
                    merge.into[row] = before;
                }
                before = Some(row).filter(|&row| keep[row]).or(before);
            }
        }
        let parked = observation.parked;
        let recall = parked.map_or_else(Vec::new, |parked| {
            let tokens = parked.positions().iter().zip(&parked.attention);
            tokens
                .map(|(&position, &attention)| {
                    assert!(attention > 0.0);
                    (position + layer).is_multiple_of(3)
                })
                .collect()
        });
        let park = Park {
            rows,
            recall,
            readings: self.0.clone(),
        };
        Reduction {
            merge: Some(merge),
            park: Some(park),
            ..Reduction::keep(keep)
        }
    }
}

#[test]
fn parked_and_called_back_tokens_are_the_same_masked_and_dropped() {
    let _alone = alone();
    let device = Device::default();
    let (vit, config) = model(6, &device);
    let images = images(&device);
    let reducer = Several(readings(&config, -0.5, 0.9, &device));
    let dropped = run(&vit, images.clone(), ExecutionMode::Drop, &reducer);
    let masked = run(&vit, images.clone(), ExecutionMode::Mask, &reducer);
    assert_close(dropped.logits.clone(), masked.logits);
    for (drop, mask) in dropped.trace.iter().zip(&masked.trace) {
        assert_eq!((&drop.left, &drop.parked), (&mask.left, &mask.parked));
        assert_eq!(drop.kept.read(), mask.kept.read());
    }
    let kept: Vec<_> = dropped
        .trace
        .iter()
        .map(|entry| entry.kept.read())
        .collect();
    let came_back = kept.windows(2).any(|pair| {
        let pairs = pair[0][0].iter().zip(&pair[1][0]);
        pairs.into_iter().any(|(before, after)| *after && !before)
    });
    assert!(came_back);
    // An image is the same alone.
    let alone = run(&vit, images.narrow(0, 0, 1), ExecutionMode::Drop, &reducer);
    assert_close(alone.logits, dropped.logits.narrow(0, 0, 1));
}

/// As [`Several`], and rows weigh less as keys.
struct Weighed(Several);

impl TokenReducer for Weighed {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.0.placement(layer)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let rows = observation.sequences.num_rows();
        let weights = (0..rows).map(|row| 1.0 - (row % 5) as f32 / 8.0);
        let weights: Vec<f32> = weights.collect();
        let mask = Tensor::from_data(weights.as_slice(), &observation.hidden.device());
        Reduction {
            mask: Some(mask),
            ..self.0.reduce(observation)
        }
    }
}

/// What records for a backward pass reads by Burn's operations, and elsewhere there may be a kernel.
#[test]
fn parked_tokens_are_read_alike_with_and_without_a_backward_pass() {
    let _alone = alone();
    let device = Device::default();
    let (vit, config) = model(6, &device);
    let images = images(&device);
    let several = || Several(readings(&config, -0.5, 0.9, &device));
    let reducers: [&dyn TokenReducer; 2] = [&several(), &Weighed(several())];
    for reducer in reducers {
        for mode in [ExecutionMode::Drop, ExecutionMode::Mask] {
            let plain = run(&vit, images.clone(), mode, reducer).logits;
            let recorded = run(&vit, images.clone().autodiff(), mode, reducer).logits;
            assert_close(plain, recorded.without_autodiff());
        }
    }
}

#[test]
fn every_patch_has_an_answer_at_the_end_unless_it_was_removed() {
    let _alone = alone();
    let device = Device::default();
    let (vit, config) = model(2, &device);
    let images = images(&device);
    let run = |reducer: Option<&dyn TokenReducer>| {
        let mode = ExecutionMode::Drop;
        let settings = RunSettings { mode, reducer };
        let encoded = vit.run_blocks(vit.embed(images.clone()), 0..2, settings);
        encoded.every_patch()
    };
    let dense = run(None);
    let tokens = vit.run_blocks(vit.embed(images.clone()), 0..2, RunSettings::DENSE);
    let tokens = tokens.batch.tokens.reshape([3, 65, config.hidden_size]);
    assert_close(
        dense.tokens.clone().flatten(0, 1),
        tokens.narrow(1, 1, 64).flatten(0, 1),
    );
    // Parked after block 0, and told that block 1 leaves a token as it is.
    let parked = run(Some(&All(readings(&config, 0.0, 1.0, &device))));
    let after_one = vit.run_blocks(vit.embed(images.clone()), 0..1, RunSettings::DENSE);
    let after_one = after_one.every_patch();
    assert_close(parked.tokens.flatten(0, 1), after_one.tokens.flatten(0, 1));
    let several = Several(readings(&config, 0.0, 1.0, &device));
    let some = run(Some(&several));
    for (image, known) in some.known.iter().enumerate() {
        for (patch, &known) in known.iter().enumerate() {
            let token = some
                .tokens
                .clone()
                .slice([image..image + 1, patch..patch + 1]);
            let is_zero = token.abs().max().into_scalar::<f32>() == 0.0;
            assert_eq!(is_zero, !known, "image {image}, patch {patch}");
        }
        assert!(known.contains(&false) && known.contains(&true));
    }
}

#[test]
fn gradients_reach_how_tokens_are_read() {
    let _alone = alone();
    let device = Device::default().autodiff();
    let (vit, config) = model(3, &device);
    let bias = Tensor::<1>::full([config.num_heads], -1.0, &device).require_grad();
    let scale = Tensor::<1>::full([config.hidden_size], 1.0, &device).require_grad();
    let readings = readings(&config, 0.0, 1.0, &device);
    let readings = readings.iter().cloned().map(|mut reading| {
        reading.bias = bias.clone();
        reading.drifts[0].scale = scale.clone();
        reading
    });
    let reducer = Several(readings.collect());
    let output = run(&vit, images(&device), ExecutionMode::Drop, &reducer);
    let gradients = output.logits.square().sum().backward();
    for value in [bias, scale] {
        let gradient = value.grad(&gradients).unwrap();
        assert!(gradient.abs().max().into_scalar::<f32>() > 0.0);
    }
}
