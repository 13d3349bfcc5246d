//! Vector code without intrinsics: loops that the compiler vectorises, since nothing in them
//! branches and sums run in [`LANES`] independent lanes, compiled for several instruction sets.

/// Values that are worked on at once: a vector of AVX-512, two of AVX2, four of NEON.
pub(super) const LANES: usize = 16;

/// Defines a function that runs with the widest vectors of the machine it is called on.
///
/// What it calls has to be `#[inline(always)]` (or a closure of a few operations) to be compiled
/// with it.
macro_rules! vectorised {
    (
        $(#[$meta:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name($($argument: $type),*) {
            #[inline(always)]
            fn anywhere($($argument: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512($($argument: $type),*) {
                    anywhere($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) {
                    anywhere($($argument),*)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    let wide = is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512vl")
                        && is_x86_feature_detected!("avx512dq")
                        && is_x86_feature_detected!("avx512bw");
                    // SAFETY: this machine has the instructions.
                    return unsafe {
                        if wide { avx512($($argument),*) } else { avx2($($argument),*) }
                    };
                }
            }
            anywhere($($argument),*)
        }
    };
}
pub(in crate::kernels) use vectorised;

/// `e^x` to a relative error of 2e-7 (the polynomial of Cephes' `expf`); 0 below -87.
/// For `x` up to 88.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves an integer in the low bits
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 5.0e-1);
    let p = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { p * power }
}

/// The largest of some values, a multiple of [`LANES`].
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in values.chunks_exact(LANES) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of the lanes, as a tree.
#[inline(always)]
pub(super) fn sum(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Replaces each score, a multiple of [`LANES`] of them, by `e^(scale * score - shift)`; returns
/// the sum.
#[inline(always)]
pub(super) fn exp_scores(scores: &mut [f32], scale: f32, shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for chunk in scores.chunks_exact_mut(LANES) {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *score = exp(score.mul_add(scale, -shift));
            *lane += *score;
        }
    }
    sum(lanes)
}

/// The sum of `term` over rows of any (equal) length.
#[inline(always)]
pub(super) fn sum_of<const N: usize>(rows: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let split = rows.map(|row| row.as_chunks::<LANES>());
    for index in 0..split[0].0.len() {
        let chunks = split.map(|(chunks, _)| &chunks[index]);
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(chunks.map(|chunk| chunk[lane]));
        }
    }
    for (lane, sum) in lanes.iter_mut().enumerate().take(split[0].1.len()) {
        *sum += term(split.map(|(_, rest)| rest[lane]));
    }
    sum(lanes)
}

/// The probability that a normal variable is below `x`, and `e^(-x^2 / 2)`. The absolute error
/// is below 2e-7 (Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26).
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let t = 1.0 / x.abs().mul_add(0.231_641_9, 1.0);
    let p = 1.061_405_4_f32;
    let p = p.mul_add(t, -1.453_152);
    let p = p.mul_add(t, 1.421_413_8);
    let p = p.mul_add(t, -0.284_496_73);
    let p = p.mul_add(t, 0.254_829_6);
    let density = exp(-0.5 * x * x);
    let tail = 0.5 * p * t * density;
    (if x < 0.0 { tail } else { 1.0 - tail }, density)
}

vectorised! {
    /// Replaces each value by exact GELU of it: `x` times the probability that a normal variable
    /// is below `x`.
    pub(super) fn gelu_in_place(values: &mut [f32]) {
        for value in values {
            *value *= normal(*value).0;
        }
    }
}

vectorised! {
    /// Multiplies each gradient by the derivative of GELU at the input.
    pub(super) fn gelu_slopes(gradients: &mut [f32], inputs: &[f32]) {
        const HEIGHT: f32 = 0.398_942_3; // of the normal density: 1 / sqrt(2 pi)
        for (gradient, &x) in gradients.iter_mut().zip(inputs) {
            let (below, density) = normal(x);
            *gradient *= (x * density).mul_add(HEIGHT, below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    vectorised! {
        fn exp_all(values: &mut [f32]) {
            for value in values {
                *value = exp(*value);
            }
        }
    }

    #[test]
    fn exp_is_as_exact_as_floats_are() {
        let inputs: Vec<f32> = (-87_000..=20_000).map(|step| step as f32 / 1e3).collect();
        let mut outputs = inputs.clone();
        exp_all(&mut outputs);
        for (input, output) in inputs.into_iter().zip(outputs) {
            let expected = f64::from(input).exp();
            let error = (f64::from(output) - expected).abs() / expected;
            assert!(error < 2e-7, "exp({input}) is off by {error:e}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e9), 0.0);
    }

    #[test]
    fn gelu_and_its_slope_are_exact_to_a_millionth() {
        // The distribution, integrated from the density by Simpson's rule.
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let step = 1e-3;
        let mut below = 0.0;
        for index in -10_000..10_000 {
            let x = f64::from(index) * step;
            let [mut value, mut slope] = [[x as f32], [1.0]];
            gelu_in_place(&mut value);
            gelu_slopes(&mut slope, &[x as f32]);
            assert!(
                (f64::from(value[0]) - x * below).abs() < 1e-6,
                "gelu({x}) = {value:?}"
            );
            let expected = below + x * density(x);
            assert!(
                (f64::from(slope[0]) - expected).abs() < 1e-6,
                "slope at {x}: {slope:?}"
            );
            below += step / 6.0 * (density(x) + 4.0 * density(x + step / 2.0) + density(x + step));
        }
    }

    #[test]
    fn sums_have_every_term() {
        for length in 0..70 {
            let row: Vec<f32> = (0..length).map(|index| index as f32).collect();
            let twice = sum_of([&row, &row], |[a, b]| a + b);
            assert_eq!(twice, (length * length.max(1) - length) as f32);
        }
    }
}
