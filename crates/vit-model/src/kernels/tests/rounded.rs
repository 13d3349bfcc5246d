//! Products whose factors are rounded to bfloat16 on their way, against the same in double precision.

use burn::tensor::bf16;

use super::super::low_precision::Rounded;
use super::*;

fn has_instructions() -> bool {
    let found = Rounded::new(16, 16).is_some();
    if !found {
        eprintln!("skipped: this CPU has no instructions for bfloat16");
    }
    found
}

/// Rounded, in double precision.
fn rounded(data: &TensorData) -> Vec<f64> {
    let values = data.iter::<f32>();
    values
        .map(|value| f64::from(bf16::from_f32(value).to_f32()))
        .collect()
}

/// The product of `[rows, depth]` and `[depth, columns]`, values found by row and column.
fn product(
    [rows, depth, columns]: [usize; 3],
    left: impl Fn(usize, usize) -> f64,
    right: impl Fn(usize, usize) -> f64,
) -> TensorData {
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            values.push(
                (0..depth)
                    .map(|at| left(row, at) * right(at, column))
                    .sum::<f64>(),
            );
        }
    }
    TensorData::new(values, [rows, columns])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn products_are_those_of_the_rounded_factors(
        rows in prop_oneof![1_usize..40, 250_usize..270, 500_usize..700],
        inputs in 1_usize..6,
        outputs in 1_usize..6,
        seed: u64,
    ) {
        if !has_instructions() {
            return Ok(());
        }
        let (inputs, outputs) = (16 * inputs, 16 * outputs);
        let layer = [
            normal(&[rows, inputs], seed),
            normal(&[inputs, outputs], seed ^ 1),
            normal(&[outputs], seed ^ 2),
        ];
        let found = run(&layer, |[x, w, b]| Diff::fused_linear(x, w, b, Precision::Bf16));

        let [x, w] = [&layer[0], &layer[1]].map(rounded);
        let bias: Vec<f64> = layer[2].iter::<f64>().collect();
        // The gradient that `run` gives the output.
        let gradient = normal(&[rows, outputs], 77);
        let g = rounded(&gradient);
        let mut output = product([rows, inputs, outputs], |r, k| x[r * inputs + k], |k, c| w[k * outputs + c]);
        let values = output.as_mut_slice::<f64>().unwrap();
        for (index, value) in values.iter_mut().enumerate() {
            *value += bias[index % outputs];
        }
        let sums = product([1, rows, outputs], |_, _| 1.0, |k, c| {
            f64::from(gradient.as_slice::<f32>().unwrap()[k * outputs + c])
        });
        let expected = [
            output,
            product([rows, outputs, inputs], |r, k| g[r * outputs + k], |k, c| w[c * outputs + k]),
            product([inputs, rows, outputs], |r, k| x[k * inputs + r], |k, c| g[k * outputs + c]),
            sums,
        ];
        assert_close(&found, &expected);
    }
}

/// What follows the product is what follows it in 32-bit floats.
#[test]
fn what_follows_the_product_follows_it_in_both_precisions() {
    if !has_instructions() {
        return;
    }
    let layer = [&[300, 48][..], &[48, 80], &[80], &[300, 80]];
    let layer = [0, 1, 2, 3].map(|seed| normal(layer[seed], seed as u64));
    let [x, w, b, _] = layer.clone();
    let gelu = |precision| {
        run(&[x.clone(), w.clone(), b.clone()], |[x, w, b]| {
            Diff::fused_linear_gelu(x, w, b, None, precision)
        })
    };
    let add = |precision| {
        run(&layer, |[x, w, b, r]| {
            Diff::fused_linear_add(x, w, b, r, None, precision)
        })
    };
    for (short, long) in [
        (gelu(Precision::Bf16), gelu(Precision::F32)),
        (add(Precision::Bf16), add(Precision::F32)),
    ] {
        for (short, long) in short.iter().zip(&long) {
            let pairs = short.iter::<f64>().zip(long.iter::<f64>());
            let (mut error, mut size) = (0.0, 0.0);
            for (short, long) in pairs {
                error += (short - long).powi(2);
                size += long * long;
            }
            assert!(error < 1e-4 * size, "{error} of {size}");
        }
    }
}

/// A row's values do not depend on the rows beside it: what is masked equals what is dropped.
#[test]
fn rounded_products_treat_each_row_alike() {
    if !has_instructions() {
        return;
    }
    let tensor =
        |shape: &[usize], seed| Flex::float_from_data(normal(shape, seed), &Default::default());
    let (weight, bias) = (tensor(&[96, 32], 2), tensor(&[32], 3));
    let product = |rows: FloatTensor<Flex>| {
        let output = Flex::fused_linear(rows, weight.clone(), bias.clone(), Precision::Bf16);
        read(output).try_to_vec::<f32>().unwrap()
    };
    let input = tensor(&[500, 96], 1);
    let whole = product(input.clone());
    for row in [0, 5, 255, 256, 499] {
        let alone = product(Flex::float_slice(input.clone(), &[(row..row + 1).into()]));
        assert_eq!(alone, whole[row * 32..(row + 1) * 32]);
    }
}

#[test]
fn rounded_results_do_not_depend_on_the_number_of_threads() {
    if !has_instructions() {
        return;
    }
    let shapes: [&[usize]; 3] = [&[1100, 96], &[96, 288], &[288]];
    let layer = [0, 1, 2].map(|i| normal(shapes[i], i as u64));
    let results = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let run = || {
            run(&layer, |[x, w, b]| {
                Diff::fused_linear_gelu(x, w, b, None, Precision::Bf16)
            })
        };
        pool.build().unwrap().install(run)
    };
    let expected = results(1);
    for threads in [2, 5] {
        for (result, expected) in results(threads).iter().zip(&expected) {
            result.assert_eq(expected, true);
        }
    }
}
