//! Attention against the composed operations.

use super::*;

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
