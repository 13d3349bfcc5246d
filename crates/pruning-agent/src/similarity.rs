use apt_vit_model::Keys;
use burn::prelude::*;
use pulp::Arch;

/// The values of a tensor, row by row.
pub(crate) fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec().unwrap_or_default()
}

/// For each of `rows`, the row of `among` that is most like it, itself excepted, and how like: the first
/// of equals. None where there is no other. Both ascend.
pub(crate) fn nearest(keys: &Keys, rows: &[usize], among: &[usize]) -> Vec<Option<(f32, usize)>> {
    // With the widest vectors of this machine; what is computed does not depend on them.
    Arch::new().dispatch(|| nearest_anywhere(keys, rows, among))
}

#[inline(always)]
fn nearest_anywhere(keys: &Keys, rows: &[usize], among: &[usize]) -> Vec<Option<(f32, usize)>> {
    // Value by value, so that all products with a row are computed side by side.
    let count = among.len();
    let mut columns = vec![0.0; keys.width() * count];
    for (place, &row) in among.iter().enumerate() {
        for (index, &value) in keys.vector(row).iter().enumerate() {
            columns[index * count + place] = value;
        }
    }
    let mut products = vec![0.0; count];
    let of_row = |&row: &usize| {
        products.fill(0.0);
        for (column, &value) in columns.chunks_exact(count.max(1)).zip(keys.vector(row)) {
            for (product, &other) in products.iter_mut().zip(column) {
                *product += value * other;
            }
        }
        if let Ok(own) = among.binary_search(&row) {
            products[own] = f32::NEG_INFINITY;
        }
        let best = largest(&products);
        let place = products.iter().position(|&product| product == best)?;
        (best > f32::NEG_INFINITY).then(|| (best, among[place]))
    };
    rows.iter().map(of_row).collect()
}

/// The largest value, found side by side.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, larger)
}
