//! Pixels to planes, each byte by a table.

/// What becomes of each byte, by channel.
pub(crate) type Table<T> = [[T; 256]; 3];

/// Bytes that stay what they are.
pub(crate) const UNCHANGED: Table<u8> = {
    let mut bytes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        bytes[byte] = byte as u8;
        byte += 1;
    }
    [bytes; 3]
};

/// Row-major RGB bytes to planes, shifted and then flipped, to the end of `out`.
pub(super) fn push_planes<T: Copy>(
    pixels: &[u8],
    size: [u32; 2],
    shift: [i64; 2],
    flip: bool,
    table: &Table<T>,
    out: &mut Vec<T>,
) {
    push_plane::<0, T>(pixels, size, shift, flip, table, out);
    push_plane::<1, T>(pixels, size, shift, flip, table, out);
    push_plane::<2, T>(pixels, size, shift, flip, table, out);
}

/// The plane of channel `C`.
fn push_plane<const C: usize, T: Copy>(
    pixels: &[u8],
    [height, width]: [u32; 2],
    [shift_x, shift_y]: [i64; 2],
    flip: bool,
    table: &Table<T>,
    out: &mut Vec<T>,
) {
    let (pixels, _) = pixels.as_chunks::<3>();
    let (height, width) = (i64::from(height), width as usize);
    let values = &table[C];
    let value = |rgb: &[u8; 3]| values[usize::from(rgb[C])];
    let black = |count: usize| std::iter::repeat_n(values[0], count);
    // What the shift moves in is black, on one side of what is still seen.
    let moved = (shift_x.unsigned_abs() as usize).min(width);
    for y in 0..height {
        if !(0..height).contains(&(y + shift_y)) {
            out.extend(black(width));
            continue;
        }
        let row = &pixels[(y + shift_y) as usize * width..][..width];
        let (before, seen, after) = if shift_x < 0 {
            (moved, &row[..width - moved], 0)
        } else {
            (0, &row[moved..], moved)
        };
        if flip {
            out.extend(black(after));
            out.extend(seen.iter().rev().map(value));
            out.extend(black(before));
        } else {
            out.extend(black(before));
            out.extend(seen.iter().map(value));
            out.extend(black(after));
        }
    }
}
