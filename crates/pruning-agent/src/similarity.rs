use apt_vit_model::Keys;
use pulp::{Arch, Simd, WithSimd};

/// Rows that are compared at once.
pub(crate) const ROWS: usize = 4;
/// Others that each is compared with at once.
pub(crate) const LANES: usize = 16;

/// For each of `rows`, the most similar row of `among`, itself excepted, and the cosine of the two: the first of
/// equals. None where there is no other. Both ascend.
pub(crate) fn nearest(keys: &Keys, rows: &[usize], among: &[usize]) -> Vec<Option<(f32, usize)>> {
    Arch::new().dispatch(Nearest { keys, rows, among })
}

/// [`nearest`] with the widest vectors of this machine; what is computed does not depend on them. (Not a
/// closure, which would be compiled without them.)
struct Nearest<'a> {
    keys: &'a Keys,
    rows: &'a [usize],
    among: &'a [usize],
}

impl WithSimd for Nearest<'_> {
    type Output = Vec<Option<(f32, usize)>>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let Self { keys, rows, among } = self;
        // Value by value, so that all products with a row are computed side by side.
        let width = keys.width();
        let mut columns = vec![[0.0; LANES]; among.len().div_ceil(LANES) * width];
        for (place, &row) in among.iter().enumerate() {
            let columns = &mut columns[place / LANES * width..][..width];
            for (column, &value) in columns.iter_mut().zip(keys.vector(row)) {
                column[place % LANES] = value;
            }
        }
        let mut found = Vec::with_capacity(rows.len());
        for rows in rows.chunks(ROWS) {
            let row = |index: usize| rows[index.min(rows.len() - 1)];
            let vectors: [&[f32]; ROWS] = std::array::from_fn(|index| keys.vector(row(index)));
            let own: [u32; ROWS] = std::array::from_fn(|index| {
                let own = among.binary_search(&row(index));
                own.map_or(u32::MAX, |place| place as u32)
            });
            let mut best = [[f32::NEG_INFINITY; LANES]; ROWS];
            let mut places = [[0; LANES]; ROWS];
            for (first, columns) in (0..).step_by(LANES).zip(columns.chunks_exact(width)) {
                let products = products(vectors, columns);
                for row in 0..ROWS {
                    for lane in 0..LANES {
                        let place = first + lane as u32;
                        let is_other = place != own[row] && (place as usize) < among.len();
                        if is_other && products[row][lane] > best[row][lane] {
                            best[row][lane] = products[row][lane];
                            places[row][lane] = place;
                        }
                    }
                }
            }
            found.extend((0..rows.len()).map(|row| {
                let lanes = best[row].into_iter().zip(places[row]);
                let (similarity, place) =
                    lanes.fold((f32::NEG_INFINITY, 0), |found, (similarity, place)| {
                        if similarity > found.0 || (similarity == found.0 && place < found.1) {
                            (similarity, place)
                        } else {
                            found
                        }
                    });
                (similarity > f32::NEG_INFINITY).then(|| (similarity, among[place as usize]))
            }));
        }
        found
    }
}

/// Of each vector with all columns side by side.
#[inline(always)]
pub(crate) fn products(vectors: [&[f32]; ROWS], columns: &[[f32; LANES]]) -> [[f32; LANES]; ROWS] {
    let vectors = vectors.map(|vector| &vector[..columns.len()]);
    let mut products = [[0.0; LANES]; ROWS];
    for (index, column) in columns.iter().enumerate() {
        for (products, vector) in products.iter_mut().zip(vectors) {
            for (product, other) in products.iter_mut().zip(column) {
                *product += vector[index] * other;
            }
        }
    }
    products
}
