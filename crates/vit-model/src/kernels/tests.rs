//! The kernels against the composed operations, forwards and backwards.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Flex, FloatDType, TensorData, TensorMetadata};
use burn::tensor::read_sync;
use proptest::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::device::shared_shape;
use super::{FusedOps, RowSums, Spans, composed};
use crate::Precision;

mod rounded;

type Diff = Autodiff<Flex, NoCheckpointing>;

/// Values of mean 0 and variance 1, the same for the same seed.
fn normal(shape: &[usize], seed: u64) -> TensorData {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut value = || (0..3).map(|_| rng.random_range(-1.0..1.0)).sum::<f32>();
    let values = (0..shape.iter().product())
        .map(|_: usize| value())
        .collect();
    TensorData::new(values, shape.to_vec())
}

fn read(tensor: FloatTensor<Flex>) -> TensorData {
    read_sync(Flex::float_into_data(tensor)).unwrap()
}

/// The output of an operation, and the gradients of its inputs for a random gradient of the
/// output.
fn run<const N: usize>(
    inputs: &[TensorData; N],
    operation: impl Fn([FloatTensor<Diff>; N]) -> FloatTensor<Diff>,
) -> Vec<TensorData> {
    let leaf = |data: &TensorData| {
        let tensor = Flex::float_from_data(data.clone(), &Default::default());
        Diff::float_set_require_grad(Diff::from_inner(tensor), true)
    };
    let inputs = inputs.each_ref().map(leaf);
    let output = operation(inputs.clone());
    let weights = normal(&output.shape()[..], 77).convert_dtype(output.dtype());
    let weights = Flex::float_from_data(weights, &Default::default());
    let mut results = vec![read(output.primitive().clone())];
    let loss = Diff::float_sum(Diff::float_mul(output, Diff::from_inner(weights)));
    let gradients = Diff::backward(loss);
    results.extend(
        inputs
            .iter()
            .map(|input| read(Diff::grad(input, &gradients).unwrap())),
    );
    results
}

/// To 1e-5 of the largest value.
fn assert_close(fused: &[TensorData], expected: &[TensorData]) {
    for (fused, expected) in fused.iter().zip(expected) {
        let values = |data: &TensorData| data.iter::<f64>().collect::<Vec<_>>();
        let (fused, expected) = (values(fused), values(expected));
        let largest = expected
            .iter()
            .fold(1.0, |largest: f64, value| largest.max(value.abs()));
        for (index, (fused, expected)) in fused.iter().zip(&expected).enumerate() {
            let error = (fused - expected).abs();
            assert!(
                error <= 1e-5 * largest,
                "value {index} is {fused}, not {expected}"
            );
        }
    }
}

/// The kernel gives what the composed operations give in double precision. (In single precision
/// long sums of theirs are off by more than what is allowed here.)
fn compare<const N: usize>(
    inputs: &[TensorData; N],
    fused: impl Fn([FloatTensor<Diff>; N]) -> FloatTensor<Diff>,
    composed: impl Fn([FloatTensor<Diff>; N]) -> FloatTensor<Diff>,
) {
    let double = inputs.each_ref().map(|data| data.clone().convert::<f64>());
    assert_close(&run(inputs, fused), &run(&double, composed));
}

/// Sequences of these lengths, of whose rows those are hidden that `hidden` says, and others get
/// something added to their scores; the first of each stays visible.
fn spans(lengths: &[usize], hidden: Option<u64>) -> Arc<Spans> {
    let mut starts = vec![0];
    for length in lengths {
        starts.push(starts[starts.len() - 1] + length);
    }
    let bias = hidden.map(|pattern| {
        let rows = 0..starts[starts.len() - 1];
        rows.map(|row| match pattern >> (row % 61) & 1 {
            1 if !starts.contains(&row) => f32::NEG_INFINITY,
            _ if row % 3 == 0 => (row as f32).ln_1p(),
            _ => 0.0,
        })
        .collect()
    });
    Arc::new(Spans { starts, bias })
}

/// Weights of keys: 0, 1 and others. The first of each sequence weighs 1.
fn key_mask(spans: &Spans, seed: u64) -> TensorData {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let rows = spans.starts[spans.starts.len() - 1];
    let weights = (0..rows).map(|row| match rng.random_range(0..3) {
        _ if spans.starts.contains(&row) => 1.0,
        0 => 0.0,
        1 => 1.0,
        _ => rng.random_range(0.05..1.0),
    });
    TensorData::new(weights.collect::<Vec<f32>>(), [rows])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_is_what_burn_makes_of_it(
        lengths in prop::collection::vec(prop_oneof![Just(1), 1usize..40, 60usize..70], 1..6),
        heads in 1usize..4,
        width in prop_oneof![1usize..40, Just(64)],
        hidden in prop::option::of(any::<u64>()),
        step in prop_oneof![Just(1), 2usize..20],
        seed: u64,
    ) {
        let spans = spans(&lengths, hidden);
        let rows: usize = lengths.iter().sum();
        let qkv = [normal(&[rows, 3 * heads * width], seed)];
        compare(
            &qkv,
            |[qkv]| Diff::packed_attention(qkv, spans.clone(), heads),
            |[qkv]| composed::attention::<Diff>(qkv, None, &spans, heads, step),
        );
    }

    #[test]
    fn masked_attention_is_what_burn_makes_of_it(
        lengths in prop::collection::vec(prop_oneof![Just(1), 1usize..40, 60usize..70], 1..6),
        heads in 1usize..4,
        width in prop_oneof![1usize..40, Just(64)],
        hidden in prop::option::of(any::<u64>()),
        step in prop_oneof![Just(1), 2usize..20],
        seed: u64,
    ) {
        let spans = spans(&lengths, hidden);
        let rows: usize = lengths.iter().sum();
        let inputs = [normal(&[rows, 3 * heads * width], seed), key_mask(&spans, seed)];
        compare(
            &inputs,
            |[qkv, mask]| Diff::masked_attention(qkv, mask, spans.clone(), heads),
            |[qkv, mask]| composed::attention::<Diff>(qkv, Some(mask), &spans, heads, step),
        );
    }

    #[test]
    fn linear_layers_are_what_burn_makes_of_them(
        rows in prop_oneof![1usize..70, 700usize..900],
        inputs in 1usize..70,
        outputs in prop_oneof![1usize..70, 120usize..200],
        seed: u64,
    ) {
        let shapes: [&[usize]; 4] = [&[rows, inputs], &[inputs, outputs], &[outputs], &[rows, outputs]];
        let [input, weight, bias, residual] = [0, 1, 2, 3].map(|i| normal(shapes[i], seed ^ i as u64));
        let layer = [input, weight, bias];
        compare(&layer, |[x, w, b]| Diff::fused_linear(x, w, b, Precision::F32), composed::linear::<Diff>);
        compare(
            &layer,
            |[x, w, b]| Diff::fused_linear_gelu(x, w, b, None, Precision::F32),
            |layer| composed::linear_gelu::<Diff>(layer, None),
        );
        let [input, weight, bias] = layer;
        compare(
            &[input, weight, bias, residual],
            |[x, w, b, r]| Diff::fused_linear_add(x, w, b, r, None, Precision::F32),
            |[x, w, b, r]| composed::linear_add::<Diff>([x, w, b], r, None),
        );
    }

    #[test]
    fn prepacked_weights_give_what_plain_ones_give(
        rows in prop_oneof![1usize..70, 700usize..900],
        inputs in prop_oneof![1usize..70, 500usize..1100],
        outputs in prop_oneof![1usize..70, 120usize..200],
        seed: u64,
    ) {
        let shapes: [&[usize]; 4] = [&[rows, inputs], &[inputs, outputs], &[outputs], &[rows, outputs]];
        let data = [0, 1, 2, 3].map(|i| normal(shapes[i], seed ^ i as u64));
        let tensors = data.each_ref().map(|data| {
            Flex::float_from_data(data.clone(), &Default::default())
        });
        let [input, weight, bias, residual] = tensors;
        let weight = Flex::prepack(weight);
        let fused = [
            Flex::fused_linear(input.clone(), weight.clone(), bias.clone(), Precision::F32),
            Flex::fused_linear_gelu(input.clone(), weight.clone(), bias.clone(), None, Precision::F32),
            Flex::fused_linear_add(input, weight, bias, residual, None, Precision::F32),
        ];
        let [input, weight, bias, residual] = data.each_ref().map(|data| {
            Flex::float_from_data(data.clone().convert::<f64>(), &Default::default())
        });
        let layer = [input, weight, bias];
        let exact = [
            composed::linear::<Flex>(layer.clone()),
            composed::linear_gelu::<Flex>(layer.clone(), None),
            composed::linear_add::<Flex>(layer, residual, None),
        ];
        assert_close(&fused.map(read), &exact.map(read));
    }

    #[test]
    fn sums_of_rows_are_what_burn_makes_of_them(
        rows in 1usize..400, hidden in 1usize..40, results in 0usize..300, seed in any::<u64>(),
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Each row goes into one of the results, or is left out; so some results have no row.
        let mut terms = vec![Vec::new(); results];
        for row in 0..rows {
            if let Some(terms) = terms.get_mut(rng.random_range(0..results + 2)) {
                terms.push((row, rng.random_range(-1.0..1.0f32)));
            }
        }
        let sums = Arc::new(RowSums::new(rows, terms.into_iter()));
        prop_assume!(!sums.terms.is_empty());
        compare(
            &[normal(&[rows, hidden], seed)],
            |[input]| Diff::sum_rows(input, sums.clone()),
            |[input]| composed::sum_rows::<Diff>(input, &sums, |terms| terms.next_multiple_of(64)),
        );
    }

    #[test]
    fn patches_are_what_burn_makes_of_them(
        batch in 1usize..5, channels in 1usize..4, patch in 1usize..6,
        rows in 1usize..5, columns in 1usize..5, seed in any::<u64>(),
    ) {
        let features = normal(&[batch, channels, rows * patch, columns * patch], seed);
        let tensor = |data: TensorData| Flex::float_from_data(data, &Default::default());
        let fused = Flex::patches(tensor(features.clone()), patch);
        let composed = composed::patches::<Flex>(tensor(features), patch);
        prop_assert_eq!(read(fused), read(composed));
    }

    #[test]
    fn tokens_are_assembled_as_burn_does(
        batch in 1usize..90, patches in 1usize..70, prefix in 1usize..3, hidden in 1usize..40,
        seed in any::<u64>(),
    ) {
        let of_patches = normal(&[batch * patches, hidden], seed);
        let table = normal(&[prefix + patches, hidden], !seed);
        let tensor = |data: TensorData| Flex::float_from_data(data, &Default::default());
        let fused = Flex::assemble(tensor(of_patches.clone()), tensor(table.clone()), prefix);
        let composed = composed::assemble::<Flex>(tensor(of_patches), tensor(table), prefix);
        prop_assert_eq!(read(fused), read(composed));
    }

    #[test]
    fn mean_keys_are_what_burn_makes_of_them(
        rows in 1usize..400, heads in 1usize..5, width in 1usize..20, seed in any::<u64>(),
    ) {
        let qkv = normal(&[rows, 3 * heads * width], seed);
        let tensor = |data: TensorData| Flex::float_from_data(data, &Default::default());
        let fused = Flex::mean_keys(tensor(qkv.clone()), heads);
        let composed = composed::mean_keys::<Flex>(tensor(qkv.convert::<f64>()), heads);
        assert_close(&[read(fused)], &[read(composed)]);
    }

    #[test]
    fn cls_scores_are_what_burn_makes_of_them(
        rows in 1usize..400, heads in 1usize..5, width in 1usize..20, seed in any::<u64>(),
    ) {
        let qkv = normal(&[rows, 3 * heads * width], seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let cls_rows: Vec<usize> = (0..rows).map(|_| rng.random_range(0..rows)).collect();
        let tensor = |data: TensorData| Flex::float_from_data(data, &Default::default());
        let fused = Flex::cls_scores(tensor(qkv.clone()), Arc::new(cls_rows.clone()), heads);
        let composed = composed::cls_scores::<Flex>(tensor(qkv.convert::<f64>()), &cls_rows, heads);
        assert_close(&[read(fused)], &[read(composed)]);
    }

    #[test]
    fn layer_norm_is_what_burn_makes_of_it(
        rows in prop_oneof![1usize..70, 1000usize..1100],
        columns in 8usize..150,
        seed: u64,
    ) {
        let inputs = norm_inputs(rows, columns, seed);
        compare(&inputs, fused_norm, composed_norm);
    }
}

/// As many terms as results, but not one for each.
#[test]
fn two_rows_may_go_into_one_sum_and_none_into_another() {
    let sums = Arc::new(RowSums::new(
        3,
        [vec![(0, 1.0), (2, 1.0)], vec![]].into_iter(),
    ));
    compare(
        &[normal(&[3, 4], 1)],
        |[input]| Diff::sum_rows(input, sums.clone()),
        |[input]| composed::sum_rows::<Diff>(input, &sums, |terms| terms),
    );
}

/// Whatever stands in rows that are nobody's: the others are attended to as without them.
#[test]
fn rows_of_nobody_change_nothing() {
    for lengths in [[7, 5, 2], [16, 16, 16]] {
        let spans = spans(&lengths, None);
        let rows: usize = lengths.iter().sum();
        let all = normal(&[rows + 5, 3 * 8], 3);
        let own = all.clone().try_to_vec::<f32>().unwrap();
        let own = TensorData::new(own[..rows * 3 * 8].to_vec(), [rows, 3 * 8]);
        let attend = |qkv: TensorData| {
            let qkv = Flex::float_from_data(qkv, &Default::default());
            read(composed::attention::<Flex>(qkv, None, &spans, 2, 16))
        };
        let (all, own) = (attend(all), attend(own));
        assert_eq!(all.shape()[..], [rows + 5, 8]);
        let (all, own) = (
            all.try_to_vec::<f32>().unwrap(),
            own.try_to_vec::<f32>().unwrap(),
        );
        assert_eq!(all[..rows * 8], own);
    }
}

#[test]
fn few_shapes_are_shared() {
    let shapes: std::collections::BTreeSet<usize> = (1040..=4160).map(shared_shape).collect();
    assert!(shapes.len() <= 18, "{shapes:?}");
    for rows in [1, 64, 65, 1040, 4160, 12_608] {
        let filled = shared_shape(rows);
        assert!(filled >= rows && filled - rows < 64.max(rows / 8), "{rows}");
    }
}

/// Few values that are nearly equal leave few digits of their differences: the kernel is exact to
/// 1e-5, or off by at most twice as much as Burn's operations in single precision.
#[test]
fn layer_norm_of_few_columns_is_about_as_exact_as_burns() {
    for (columns, rows) in (2..8).flat_map(|columns| [1, 22, 69, 1050].map(|rows| (columns, rows)))
    {
        for seed in 0..8 {
            let inputs = norm_inputs(rows, columns, seed);
            let double = inputs.each_ref().map(|data| data.clone().convert::<f64>());
            let fused = run(&inputs, fused_norm);
            let (composed, exact) = (run(&inputs, composed_norm), run(&double, composed_norm));
            for ((fused, composed), exact) in fused.iter().zip(&composed).zip(&exact) {
                let errors = |values: &TensorData| -> Vec<f64> {
                    let pairs = values.iter::<f64>().zip(exact.iter::<f64>());
                    pairs.map(|(value, exact)| (value - exact).abs()).collect()
                };
                let of_burn = errors(composed).into_iter().fold(0.0, f64::max);
                for (error, exact) in errors(fused).into_iter().zip(exact.iter::<f64>()) {
                    let allowed = (2e-5 + 1e-5 * exact.abs()).max(2.0 * of_burn);
                    assert!(
                        error <= allowed,
                        "off by {error} from {exact}, Burn by {of_burn}"
                    );
                }
            }
        }
    }
}

fn norm_inputs(rows: usize, columns: usize, seed: u64) -> [TensorData; 3] {
    let shapes: [&[usize]; 3] = [&[rows, columns], &[columns], &[columns]];
    [0, 1, 2].map(|i| normal(shapes[i], seed ^ i as u64))
}

fn fused_norm([x, gamma, beta]: [FloatTensor<Diff>; 3]) -> FloatTensor<Diff> {
    Diff::fused_layer_norm(x, gamma, beta, 1e-6)
}

fn composed_norm(inputs: [FloatTensor<Diff>; 3]) -> FloatTensor<Diff> {
    composed::layer_norm::<Diff>(inputs, 1e-6)
}

/// Everything in one: a block's work on 8 sequences.
fn block(inputs: &[TensorData; 6]) -> Vec<TensorData> {
    let spans = spans(&[197, 65, 300, 1, 30, 197, 99, 111], None);
    let [x, gamma, beta, wide, narrow, bias] = inputs.clone();
    let inputs = [x, gamma, beta, wide, narrow, bias, key_mask(&spans, 6)];
    run(&inputs, |[x, gamma, beta, wide, narrow, bias, mask]| {
        let normed = Diff::fused_layer_norm(x.clone(), gamma, beta, 1e-6);
        let qkv = Diff::fused_linear_gelu(normed, wide, bias.clone(), None, Precision::F32);
        let heads = Diff::packed_attention(qkv.clone(), spans.clone(), 2);
        let masked = Diff::masked_attention(qkv, mask, spans.clone(), 2);
        let heads = Diff::float_add(heads, masked);
        let bias = Diff::float_slice(bias, &[(0..96).into()]);
        Diff::fused_linear_add(heads, narrow, bias, x, None, Precision::F32)
    })
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let shapes: [&[usize]; 6] = [&[1000, 96], &[96], &[96], &[96, 288], &[96, 96], &[288]];
    let inputs = [0, 1, 2, 3, 4, 5].map(|i| normal(shapes[i], i as u64));
    let expected = block(&inputs);
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let results = pool.install(|| block(&inputs));
        for (result, expected) in results.iter().zip(&expected) {
            result.assert_eq(expected, true);
        }
    }
}

#[test]
fn long_sequences_are_cut_into_blocks_of_queries() {
    let spans = spans(&[1500, 3], Some(0x5555));
    let qkv = [normal(&[1503, 3 * 2 * 16], 5)];
    compare(
        &qkv,
        |[qkv]| Diff::packed_attention(qkv, spans.clone(), 2),
        |[qkv]| composed::attention::<Diff>(qkv, None, &spans, 2, 1),
    );
    compare(
        &[qkv[0].clone(), key_mask(&spans, 6)],
        |[qkv, mask]| Diff::masked_attention(qkv, mask, spans.clone(), 2),
        |[qkv, mask]| composed::attention::<Diff>(qkv, Some(mask), &spans, 2, 1),
    );
}

/// Differences of the formula itself, in double precision, at 0, at 1 and between.
#[test]
fn the_gradient_of_a_key_mask_is_what_a_small_change_of_it_does() {
    const STEP: f64 = 1e-4;
    let (heads, width) = (2, 5);
    let spans = spans(&[7, 1, 12], Some(0x2_4421));
    let data = [normal(&[20, 3 * heads * width], 3), key_mask(&spans, 4)];
    let of_mask = run(&data, |[qkv, mask]| {
        Diff::masked_attention(qkv, mask, spans.clone(), heads)
    });
    let [qkv, mask] = data.map(|data| data.iter::<f64>().collect::<Vec<_>>());
    let weights: Vec<f64> = normal(&[20, heads * width], 77).iter().collect();
    // The sum of the outputs, times the weights that `run` gives them.
    let loss = |mask: &[f64]| {
        let mut loss = 0.0;
        for (start, tokens) in spans.iter() {
            for (query, head) in (0..tokens).flat_map(|i| (0..heads).map(move |head| (i, head))) {
                let at = |part: usize, row: usize, i: usize| {
                    qkv[((start + row) * 3 + part) * heads * width + head * width + i]
                };
                let bias = |row: usize| f64::from(spans.bias.as_ref().unwrap()[start + row]);
                let of_key = |key: usize| {
                    let products = (0..width).map(|i| at(0, query, i) * at(1, key, i));
                    let score = products.sum::<f64>() / (width as f64).sqrt() + bias(key);
                    mask[start + key] * score.exp()
                };
                let sum: f64 = (0..tokens).map(of_key).sum();
                for i in 0..width {
                    let value: f64 = (0..tokens).map(|key| of_key(key) * at(2, key, i)).sum();
                    let weight = weights[(start + query) * heads * width + head * width + i];
                    loss += weight * value / sum;
                }
            }
        }
        loss
    };
    assert!(mask.contains(&0.0) && mask.contains(&1.0));
    for (row, gradient) in of_mask[2].iter::<f64>().enumerate() {
        let changed = |step: f64| {
            let mut mask = mask.clone();
            mask[row] += step;
            loss(&mask)
        };
        let slope = (changed(STEP) - changed(-STEP)) / (2.0 * STEP);
        let error = (slope - gradient).abs();
        assert!(
            error <= 2e-5 * slope.abs().max(1.0),
            "row {row}: {gradient}, not {slope}"
        );
    }
}

/// A key that weighs nothing may have a score far above those of the others.
#[test]
fn gradients_of_a_key_mask_are_finite() {
    let spans = spans(&[9, 33], None);
    let wild = TensorData::new(
        normal(&[42, 3 * 16], 5)
            .iter::<f32>()
            .map(|value| 30.0 * value)
            .collect::<Vec<_>>(),
        [42, 3 * 16],
    );
    let inputs = [wild, key_mask(&spans, 6)];
    let fused =
        |[qkv, mask]: [FloatTensor<Diff>; 2]| Diff::masked_attention(qkv, mask, spans.clone(), 1);
    let composed = |[qkv, mask]: [FloatTensor<Diff>; 2]| {
        composed::attention::<Diff>(qkv, Some(mask), &spans, 1, 1)
    };
    for results in [run(&inputs, fused), run(&inputs, composed)] {
        for result in results {
            assert!(result.iter::<f32>().all(f32::is_finite));
        }
    }
}

#[test]
fn masked_attention_of_short_floats_weighs_in_long_ones() {
    let spans = spans(&[9, 33, 4], Some(0x41));
    let inputs = [normal(&[46, 3 * 24], 5), key_mask(&spans, 6)];
    let expected = run(&inputs, |[qkv, mask]| {
        Diff::masked_attention(qkv, mask, spans.clone(), 3)
    });
    let short = run(&inputs, |[qkv, mask]| {
        let qkv = Diff::float_cast(qkv, FloatDType::BF16);
        let output = Diff::masked_attention(qkv, mask, spans.clone(), 3);
        Diff::float_cast(output, FloatDType::F32)
    });
    for (short, expected) in short.iter().zip(&expected) {
        let largest = expected.iter::<f32>().fold(1.0, |a: f32, b| a.max(b.abs()));
        for (short, expected) in short.iter::<f32>().zip(expected.iter::<f32>()) {
            let error = (short - expected).abs();
            assert!(error < 0.02 * largest, "{short}, not {expected}");
        }
    }
}

/// A row's values do not depend on the rows and columns that are computed with it.
#[test]
fn prepacked_weights_treat_each_row_alike() {
    let tensor =
        |shape: &[usize], seed| Flex::float_from_data(normal(shape, seed), &Default::default());
    let [input, bias] = [tensor(&[500, 600], 1), tensor(&[40], 3)];
    let weight = Flex::prepack(tensor(&[600, 40], 2));
    let whole = read(Flex::fused_linear(
        input.clone(),
        weight.clone(),
        bias.clone(),
        Precision::F32,
    ));
    for row in [0, 5, 77, 499] {
        let alone = Flex::float_slice(input.clone(), &[(row..row + 1).into()]);
        let alone = read(Flex::fused_linear(
            alone,
            weight.clone(),
            bias.clone(),
            Precision::F32,
        ));
        let expected = &whole.as_slice::<f32>().unwrap()[row * 40..(row + 1) * 40];
        assert_eq!(alone.as_slice::<f32>().unwrap(), expected);
    }
}

#[test]
fn views_are_read_in_place() {
    let [input, weight, bias] = [normal(&[9, 14], 1), normal(&[6, 10], 2), normal(&[12], 3)];
    let operation = |fused: bool| {
        run(
            &[input.clone(), weight.clone(), bias.clone()],
            |[input, weight, bias]| {
                let input = Diff::float_slice(input, &[(1..8).into(), (2..12).into()]);
                let weight = Diff::float_transpose(weight);
                let bias = Diff::float_slice(bias, &[(3..9).into()]);
                if fused {
                    Diff::fused_linear_gelu(input, weight, bias, None, Precision::F32)
                } else {
                    composed::linear_gelu::<Diff>([input, weight, bias], None)
                }
            },
        )
    };
    assert_close(&operation(true), &operation(false));
}

#[test]
fn constants_get_no_gradient() {
    let constant = |data: &TensorData| {
        Diff::from_inner(Flex::float_from_data(data.clone(), &Default::default()))
    };
    let data = [normal(&[5, 4], 1), normal(&[4, 6], 2), normal(&[6], 3)];
    let [input, weight, bias] = data.each_ref().map(constant);
    let weight = Diff::float_set_require_grad(weight, true);
    let output = Diff::fused_linear_gelu(
        input.clone(),
        weight.clone(),
        bias.clone(),
        None,
        Precision::F32,
    );
    let gradients = Diff::backward(Diff::float_sum(output));
    assert!(Diff::grad(&weight, &gradients).is_some());
    assert!(Diff::grad(&input, &gradients).is_none());
    assert!(Diff::grad(&bias, &gradients).is_none());
}

#[test]
fn masked_attention_and_layer_norm_give_the_gradients_that_are_wanted() {
    let spans = spans(&[9, 33, 4], Some(0x41));
    let data = [normal(&[46, 3 * 24], 5), key_mask(&spans, 6)];
    let expected = run(&data, |[qkv, mask]| {
        Diff::masked_attention(qkv, mask, spans.clone(), 3)
    });
    let leaf = |data: &TensorData, learns| {
        let tensor = Flex::float_from_data(data.clone(), &Default::default());
        Diff::float_set_require_grad(Diff::from_inner(tensor), learns)
    };
    let weights = leaf(&normal(&[46, 24], 77), false);
    for wanted in [[true, false], [false, true]] {
        let inputs = [0, 1].map(|i| leaf(&data[i], wanted[i]));
        let [qkv, mask] = inputs.clone();
        let output = Diff::masked_attention(qkv, mask, spans.clone(), 3);
        let gradients = Diff::backward(Diff::float_sum(Diff::float_mul(output, weights.clone())));
        for (index, input) in inputs.iter().enumerate() {
            let gradient = Diff::grad(input, &gradients).map(read);
            assert_eq!(gradient.is_some(), wanted[index]);
            if let Some(gradient) = gradient {
                assert_close(&[gradient], &expected[index + 1..index + 2]);
            }
        }
    }
    let [qkv, mask] = data.each_ref().map(|data| leaf(data, false));
    let output = Diff::masked_attention(qkv, mask, spans.clone(), 3);
    assert_close(&[read(output.into_primitive())], &expected[..1]);

    let norm = norm_inputs(40, 24, 8);
    let expected = run(&norm, fused_norm);
    let [input, gamma, beta] = [0, 1, 2].map(|i| leaf(&norm[i], i == 0));
    let output = fused_norm([input.clone(), gamma.clone(), beta]);
    let weights = leaf(&normal(&[40, 24], 77), false);
    let gradients = Diff::backward(Diff::float_sum(Diff::float_mul(output, weights)));
    let of_input = read(Diff::grad(&input, &gradients).unwrap());
    of_input.assert_eq(&expected[1], true);
    assert!(Diff::grad(&gamma, &gradients).is_none());
}

#[test]
fn other_floats_than_32_bits_are_composed() {
    let double = |shape: &[usize], seed| {
        let data = normal(shape, seed).convert::<f64>();
        Flex::float_from_data(data, &Default::default())
    };
    let layer = [double(&[5, 4], 1), double(&[4, 6], 2), double(&[6], 3)];
    let [input, weight, bias] = layer.clone();
    let fused = Flex::fused_linear_gelu(input, weight, bias, None, Precision::F32);
    read(fused).assert_eq(&read(composed::linear_gelu::<Flex>(layer, None)), true);
}

/// What dropout did to `plain` so that it became `dropped`: 0 or the factor of what is kept.
fn mask(dropped: &TensorData, plain: &TensorData) -> FloatTensor<Diff> {
    let [dropped, plain] = [dropped, plain].map(|data| data.as_slice::<f32>().unwrap());
    let factor = |(dropped, plain): (&f32, &f32)| {
        let factor = if *dropped == 0.0 { 0.0 } else { 1.0 / 0.7 };
        assert!(
            (dropped - plain * factor).abs() < 1e-5,
            "{plain} became {dropped}"
        );
        factor
    };
    let mask: Vec<f32> = dropped.iter().zip(plain).map(factor).collect();
    let share = mask.iter().filter(|factor| **factor == 0.0).count() as f64 / mask.len() as f64;
    assert!((share - 0.3).abs() < 0.02, "{share} are dropped");
    let mask = TensorData::new(mask, [300, 60]);
    Diff::from_inner(Flex::float_from_data(mask, &Default::default()))
}

#[test]
fn dropout_is_a_mask_forwards_and_backwards() {
    let shapes: [&[usize]; 3] = [&[300, 60], &[60, 60], &[60]];
    let layer = [0, 1, 2].map(|i| normal(shapes[i], i as u64));
    let scaled = |[x, w, b]: [FloatTensor<Diff>; 3]| [Diff::float_mul_scalar(x, 0.1.into()), w, b];

    let fused = run(&layer, |layer| {
        let [x, w, b] = scaled(layer);
        Diff::fused_linear_gelu(x, w, b, Some(0.3), Precision::F32)
    });
    let gelu = |layer| composed::linear_gelu::<Diff>(scaled(layer), None);
    let mask_of_gelu = mask(&fused[0], &run(&layer, gelu)[0]);
    let composed = run(&layer, |layer| {
        Diff::float_mul(gelu(layer), mask_of_gelu.clone())
    });
    assert_close(&fused, &composed);

    let zeros = || Diff::float_zeros([300, 60].into(), &Default::default(), FloatDType::F32);
    let fused = run(&layer, |layer| {
        let [x, w, b] = scaled(layer);
        Diff::fused_linear_add(x, w, b, zeros(), Some(0.3), Precision::F32)
    });
    let linear = |layer| composed::linear::<Diff>(scaled(layer));
    let mask_of_linear = mask(&fused[0], &run(&layer, linear)[0]);
    let composed = run(&layer, |layer| {
        Diff::float_mul(linear(layer), mask_of_linear.clone())
    });
    assert_close(&fused, &composed);
    assert_ne!(
        read(mask_of_gelu.into_primitive()),
        read(mask_of_linear.into_primitive())
    );
}
