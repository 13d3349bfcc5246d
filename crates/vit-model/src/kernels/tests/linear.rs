//! Linear layers, and what follows them, against the composed operations.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

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
