//! Position embeddings resized to another grid of patches.

use super::PositionResize;

/// The grid positions `values`, `[rows, columns, width]`, resized to another grid.
pub(super) fn resize(
    values: &[f32],
    from: [usize; 2],
    to: [usize; 2],
    width: usize,
    how: PositionResize,
) -> Vec<f32> {
    // Rows first, then columns: the filters are separable.
    let rows = taps(from[0], to[0], how);
    let columns = taps(from[1], to[1], how);
    let line = from[1] * width;
    let mut tall = vec![0.0_f32; to[0] * line];
    for (target, taps) in tall.chunks_exact_mut(line).zip(&rows) {
        for &(row, weight) in taps {
            for (target, value) in target.iter_mut().zip(&values[row * line..(row + 1) * line]) {
                *target += weight * value;
            }
        }
    }
    let mut resized = vec![0.0_f32; to[0] * to[1] * width];
    for (target, source) in resized
        .chunks_exact_mut(to[1] * width)
        .zip(tall.chunks_exact(line))
    {
        for (target, taps) in target.chunks_exact_mut(width).zip(&columns) {
            for &(column, weight) in taps {
                let source = &source[column * width..(column + 1) * width];
                for (target, value) in target.iter_mut().zip(source) {
                    *target += weight * value;
                }
            }
        }
    }
    resized
}

/// For each index of a line of `to` values: which of `from` values it is made of, with weights.
fn taps(from: usize, to: usize, how: PositionResize) -> Vec<Vec<(usize, f32)>> {
    if from == to {
        return (0..to).map(|index| vec![(index, 1.0)]).collect();
    }
    let scale = from as f64 / to as f64;
    let last = from - 1;
    let at = |index: usize| match how {
        PositionResize::Linear => {
            let position = match to {
                1 => 0.0,
                _ => (index * last) as f64 / (to - 1) as f64,
            };
            let low = (position as usize).min(last);
            let share = (position - low as f64) as f32;
            vec![(low, 1.0 - share), ((low + 1).min(last), share)]
        }
        PositionResize::Bicubic => {
            let position = (index as f64 + 0.5) * scale - 0.5;
            let low = position.floor();
            (-1..=2)
                .map(|offset| {
                    let source = (low as i64 + offset).clamp(0, last as i64) as usize;
                    let distance = position - low - offset as f64;
                    (source, cubic(distance, -0.75) as f32)
                })
                .collect()
        }
        PositionResize::BicubicAntialias => {
            // Downwards the filter widens, so that every source value counts.
            let stretch = scale.max(1.0);
            let center = (index as f64 + 0.5) * scale;
            let first = (center - 2.0 * stretch + 0.5).max(0.0) as usize;
            let end = ((center + 2.0 * stretch + 0.5) as usize).min(from);
            let weight = |source: usize| cubic((source as f64 - center + 0.5) / stretch, -0.5);
            let sum: f64 = (first..end).map(weight).sum();
            (first..end)
                .map(|source| (source, (weight(source) / sum) as f32))
                .collect()
        }
    };
    (0..to).map(at).collect()
}

/// Keys' cubic convolution kernel (1981), with its parameter `a`.
fn cubic(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    match x {
        _ if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_keeps_the_corners() {
        let grid: Vec<f32> = (0..9).map(|value| value as f32).collect();
        let resized = resize(&grid, [3, 3], [5, 5], 1, PositionResize::Linear);
        assert_eq!(
            [resized[0], resized[4], resized[20], resized[24]],
            [0.0, 2.0, 6.0, 8.0]
        );
        assert_eq!([resized[1], resized[12]], [0.5, 4.0]);
    }

    #[test]
    fn every_way_keeps_a_constant_and_the_same_grid() {
        for how in [
            PositionResize::Linear,
            PositionResize::Bicubic,
            PositionResize::BicubicAntialias,
        ] {
            for to in [[1, 1], [2, 7], [5, 4], [16, 3]] {
                let resized = resize(&[3.0; 5 * 4 * 2], [5, 4], to, 2, how);
                assert_eq!(resized.len(), to[0] * to[1] * 2);
                assert!(
                    resized.iter().all(|value| (value - 3.0).abs() < 1e-5),
                    "{how:?} {to:?}"
                );
            }
            let grid: Vec<f32> = (0..40).map(|value| value as f32).collect();
            assert_eq!(resize(&grid, [5, 4], [5, 4], 2, how), grid);
        }
    }
}
