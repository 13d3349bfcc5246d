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

mod attention;
mod linear;
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
