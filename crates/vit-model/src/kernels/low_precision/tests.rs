use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::attention::{Heads, attend};
use super::cpu::Instructions;
use super::epilogue::{Add, Floats, GeluTiles, ToRows};
use super::inputs::{Norm, Source, Tiles, write};
use super::layout::{Kind, Left, Lines, Rows, TILE};
use super::pack::{Packed, round_bf16};
use super::product::{Epilogue, Product, Scales, multiply};

/// The instruction sets of this machine; says by name which are not there.
fn sets() -> Vec<Instructions> {
    let (there, missing): (Vec<_>, Vec<_>) = Instructions::ALL
        .into_iter()
        .partition(|set| set.is_there());
    for set in missing {
        eprintln!("skipped: this CPU has no {}", set.name());
    }
    there
}

fn kinds(set: Instructions) -> &'static [Kind] {
    if set.has_bf16() {
        &[Kind::Bf16, Kind::Int8]
    } else {
        &[Kind::Int8]
    }
}

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn rounded(value: f32) -> f64 {
    f64::from(f32::from_bits(u32::from(round_bf16(value)) << 16))
}

/// Factors of a product, packed.
struct Factors {
    set: Instructions,
    rows: Rows,
    left: Lines,
    scales: Vec<f32>,
    packed: Packed,
}

impl Factors {
    fn new(
        set: Instructions,
        kind: Kind,
        source: Source<'_>,
        count: usize,
        packed: Packed,
    ) -> Self {
        let rows = Rows::new(count);
        let lines = packed.lines();
        assert_eq!(lines, kind.lines(packed.depth));
        let mut left = Lines::zeroed(rows.tiles * lines * TILE);
        let mut scales = vec![0.0; count];
        let tiles = Tiles {
            set,
            kind,
            start: left.start_mut(),
            rows,
            lines,
            scales: scales.as_mut_ptr(),
        };
        // SAFETY: the instructions are there, and so are the rows.
        unsafe { write(source, packed.depth, 0..count, tiles) };
        Self {
            set,
            rows,
            left,
            scales,
            packed,
        }
    }

    fn run(&self, scales: Scales, epilogue: &impl Epilogue) {
        let product = Product {
            kind: self.packed.kind,
            left: Left::tiled(self.left.start(), self.rows, self.packed.lines()),
            panels: self.packed.panels(),
            bias: self.packed.bias(),
            shifts: self.packed.shifts(),
            scales,
        };
        // SAFETY: the instructions are there, and the epilogue has room for the rows and columns.
        unsafe {
            multiply(
                self.set,
                &product,
                0..self.packed.panel_count(),
                0..self.rows.tiles,
                epilogue,
            );
        }
    }

    fn scales(&self) -> Scales {
        match self.packed.kind {
            Kind::Bf16 => Scales::Floats,
            Kind::Int8 => Scales::Integers {
                rows: self.scales.as_ptr(),
                columns: self.packed.scales(),
            },
        }
    }

    /// What each value is, or the bits of each sum.
    fn values(&self, scales: Scales) -> Vec<f32> {
        let columns = self.packed.columns;
        let mut values = vec![f32::NAN; self.rows.count * columns];
        let target = values.as_mut_ptr();
        self.run(
            scales,
            &Floats {
                target,
                stride: columns,
                columns,
            },
        );
        values
    }
}

fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    (1..100_usize, 1..14_usize, 1..10_usize).prop_map(|(rows, k, n)| (rows, 16 * k, 16 * n))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn integers_are_summed_alike_by_every_instruction_set((rows, depth, columns) in shapes(), seed: u64) {
        let input = random(rows * depth, seed);
        let (weight, bias) = (random(depth * columns, seed ^ 1), random(columns, seed ^ 2));
        let mut expected = None;
        for set in sets() {
            let packed = Packed::new(Kind::Int8, &weight, &bias);
            let factors = Factors::new(set, Kind::Int8, Source::Floats(input.as_ptr()), rows, packed);
            let sums = factors.values(Scales::Sums).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let expected = expected.get_or_insert_with(|| {
                let int = |value: f32, largest: f32| (value * (127.0 / largest)).round_ties_even() as i32;
                let mut sums = Vec::new();
                for row in input.chunks(depth) {
                    let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                    for column in 0..columns {
                        let weights = || weight.iter().skip(column).step_by(columns);
                        let scale = weights().fold(0.0_f32, |m, v| m.max(v.abs())) / 127.0;
                        let terms = row.iter().zip(weights()).map(|(&value, weight)| {
                            int(value, largest) * (weight / scale).round_ties_even() as i32
                        });
                        sums.push(terms.sum::<i32>() as u32);
                    }
                }
                sums
            });
            prop_assert_eq!(&sums, expected, "{}", set.name());
        }
    }

    #[test]
    fn products_of_short_floats_are_those_of_the_rounded_factors(
        (rows, depth, columns) in shapes(),
        seed: u64,
    ) {
        let input = random(rows * depth, seed);
        let (weight, bias) = (random(depth * columns, seed ^ 1), random(columns, seed ^ 2));
        for set in sets().into_iter().filter(|set| set.has_bf16()) {
            let packed = Packed::new(Kind::Bf16, &weight, &bias);
            let factors = Factors::new(set, Kind::Bf16, Source::Floats(input.as_ptr()), rows, packed);
            let values = factors.values(factors.scales());
            for (index, value) in values.into_iter().enumerate() {
                let (row, column) = (index / columns, index % columns);
                let terms = (0..depth).map(|k| {
                    rounded(input[row * depth + k]) * rounded(weight[k * columns + column])
                });
                let expected = terms.sum::<f64>() + f64::from(bias[column]);
                prop_assert!((f64::from(value) - expected).abs() < 1e-4, "{}: {value} {expected}", set.name());
            }
        }
    }

    #[test]
    fn attention_is_the_softmax_of_the_rounded_queries_and_keys(
        tokens in 1..80_usize,
        heads in 1..4_usize,
        sixteens in 1..6_usize,
        seed: u64,
    ) {
        let width = 16 * sixteens;
        let hidden = heads * width;
        // Two sequences; the second is looked at.
        let start = 3;
        let rows = start + tokens;
        let mut qkv: Vec<u16> = random(rows * 3 * hidden, seed).into_iter().map(|v| round_bf16(2.0 * v)).collect();
        qkv.resize((rows + 16) * 3 * hidden, 0);
        let mut bias = random(rows, seed ^ 1);
        if tokens > 1 {
            bias[rows - 1] = f32::NEG_INFINITY;
        }
        let value = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
        let sets = sets().into_iter().filter(|set| set.has_bf16());
        for (set, head) in sets.flat_map(|set| (0..heads).map(move |head| (set, head))) {
            let mut output = vec![0; rows * hidden];
            let shared = Heads { set, qkv: qkv.as_ptr(), output: output.as_mut_ptr(), hidden, width, bias: Some(&bias) };
            // SAFETY: the instructions and the rows are there.
            unsafe { attend(&shared, start, tokens, head) };
            let at = |part: usize, row: usize, column: usize| {
                value(qkv[(start + row) * 3 * hidden + part * hidden + head * width + column])
            };
            for query in 0..tokens {
                let weights: Vec<f64> = (0..tokens).map(|key| {
                    let score: f64 = (0..width).map(|column| at(0, query, column) * at(1, key, column)).sum();
                    (score / (width as f64).sqrt() + f64::from(bias[start + key])).exp()
                }).collect();
                let sum: f64 = weights.iter().sum();
                for column in 0..width {
                    let terms = weights.iter().enumerate().map(|(key, weight)| weight / sum * at(2, key, column));
                    let expected: f64 = terms.sum();
                    let found = value(output[(start + query) * hidden + head * width + column]);
                    prop_assert!((found - expected).abs() < 0.02, "{}: {found} {expected}", set.name());
                }
            }
        }
    }
}

#[test]
fn quantised_products_are_near_those_of_the_floats() {
    let (rows, depth, columns) = (37, 384, 96);
    let input = random(rows * depth, 1);
    let (weight, bias) = (random(depth * columns, 2), random(columns, 3));
    for set in sets() {
        let packed = Packed::new(Kind::Int8, &weight, &bias);
        let factors = Factors::new(
            set,
            Kind::Int8,
            Source::Floats(input.as_ptr()),
            rows,
            packed,
        );
        let values = factors.values(factors.scales());
        for (index, value) in values.into_iter().enumerate() {
            let (row, column) = (index / columns, index % columns);
            let terms = (0..depth).map(|k| input[row * depth + k] * weight[k * columns + column]);
            let expected = terms.sum::<f32>() + bias[column];
            // A step is 1/127; 384 products of values around 0.5 each err by about 0.003.
            assert!(
                (value - expected).abs() < 0.3,
                "{}: {value} {expected}",
                set.name()
            );
        }
    }
}

#[test]
fn epilogues_do_what_follows_the_product() {
    let (rows, depth, columns) = (53, 64, 80);
    let input = random(rows * depth, 1);
    let (weight, bias) = (random(depth * columns, 2), random(columns, 3));
    let residual = random(rows * columns, 4);
    for set in sets() {
        for &kind in kinds(set) {
            let packed = Packed::new(kind, &weight, &bias);
            let factors = Factors::new(set, kind, Source::Floats(input.as_ptr()), rows, packed);
            let plain = factors.values(factors.scales());
            let gelu = |x: f32| {
                let x = f64::from(x);
                // The distribution, by Simpson's rule from -12 on.
                let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let step = (x + 12.0) / 2000.0;
                let area = |i: i32| {
                    let a = -12.0 + f64::from(i) * step;
                    step / 6.0 * (density(a) + 4.0 * density(a + step / 2.0) + density(a + step))
                };
                x * (0..2000).map(area).sum::<f64>()
            };
            let near = |bits: u16, expected: f64| {
                let found = f64::from(f32::from_bits(u32::from(bits) << 16));
                assert!(
                    (found - expected).abs() <= 1e-4 + expected.abs() / 250.0,
                    "{found} {expected}"
                );
            };

            let mut sum = vec![0.0; rows * columns];
            let target = sum.as_mut_ptr();
            factors.run(
                factors.scales(),
                &Add {
                    residual: residual.as_ptr(),
                    target,
                    columns,
                },
            );
            let mut short = vec![0_u16; rows * columns];
            let target = short.as_mut_ptr();
            factors.run(factors.scales(), &ToRows::<false> { target, columns });
            let mut activated = vec![0_u16; rows * columns];
            let target = activated.as_mut_ptr();
            factors.run(factors.scales(), &ToRows::<true> { target, columns });
            let lines = Kind::Bf16.lines(columns);
            let mut tiles = Lines::zeroed(factors.rows.tiles * lines * TILE);
            let target = tiles.start_mut();
            factors.run(factors.scales(), &GeluTiles { target, lines });
            for (index, &value) in plain.iter().enumerate() {
                assert_eq!(sum[index], value + residual[index]);
                assert_eq!(short[index], round_bf16(value));
                near(activated[index], gelu(value));
                let (row, column) = (index / columns, index % columns);
                let (tile, within) = factors.rows.place(row);
                let at = (tile * lines + column / 32) * TILE + within * 64 + column % 32 * 2;
                // SAFETY: within the tiles.
                let tiled = unsafe { tiles.start().wrapping_add(at).cast::<u16>().read() };
                assert_eq!(tiled, activated[index]);
            }
        }
    }
}

#[test]
fn norms_are_written_as_products_read_them() {
    let (rows, depth) = (21, 96);
    let input: Vec<f32> = random(rows * depth, 1)
        .into_iter()
        .map(|v| 3.0 * v + 2.0)
        .collect();
    let (gamma, beta) = (random(depth, 2), random(depth, 3));
    let norm = Norm {
        gamma: &gamma,
        beta: &beta,
        epsilon: 1e-6,
    };
    // The identity brings the rows back.
    let mut identity = vec![0.0; depth * depth];
    identity
        .iter_mut()
        .step_by(depth + 1)
        .for_each(|one| *one = 1.0);
    for set in sets() {
        for &kind in kinds(set) {
            let packed = Packed::new(kind, &identity, &vec![0.0; depth]);
            let factors = Factors::new(
                set,
                kind,
                Source::Normed(input.as_ptr(), norm),
                rows,
                packed,
            );
            let values = factors.values(factors.scales());
            for (row, values) in values.chunks(depth).enumerate() {
                let input: Vec<f64> = input[row * depth..][..depth]
                    .iter()
                    .map(|&v| f64::from(v))
                    .collect();
                let mean = input.iter().sum::<f64>() / depth as f64;
                let variance =
                    input.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / depth as f64;
                for (column, &value) in values.iter().enumerate() {
                    let normed = (input[column] - mean) / (variance + 1e-6).sqrt();
                    let expected = normed * f64::from(gamma[column]) + f64::from(beta[column]);
                    // A half of the last bit that is kept: 2^-8 of the value, or a half of 1/127 of the largest.
                    let tolerance = match kind {
                        Kind::Bf16 => 1e-6 + expected.abs() / 250.0,
                        Kind::Int8 => 3.0 / 250.0,
                    };
                    assert!(
                        (f64::from(value) - expected).abs() < tolerance,
                        "{value} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_of_zeros_and_padding_stay_zero() {
    let (rows, depth, columns) = (5, 48, 16);
    let input = vec![0.0; rows * depth];
    let weight = vec![0.0; depth * columns];
    for set in sets() {
        for &kind in kinds(set) {
            let packed = Packed::new(kind, &weight, &vec![0.25; columns]);
            let factors = Factors::new(set, kind, Source::Floats(input.as_ptr()), rows, packed);
            assert!(
                factors
                    .values(factors.scales())
                    .iter()
                    .all(|&value| value == 0.25)
            );
        }
    }
}
