//! Damage: bits, bytes, ranges, lengths, numbers and words.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use crate::Case;
use crate::testing::crc;

/// What parsers are sensitive to.
const WORDS: [&[u8]; 30] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"\\u0000",
    b"\\ud800",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"NaN",
    b"\r\n",
    b"--",
    b"--Bound",
    b"; boundary=",
    b"%00",
    b"&",
    b"=",
    b"data:image/png;base64,",
    b"binary_data_size",
    b"classification",
    b"\xff\xd8",
    b"\xff\xda",
    b"IDAT",
    b"VP8X",
];
/// Lengths at which arithmetic goes wrong.
const LENGTHS: [u32; 8] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, u32::MAX];
/// Bytes of a part, at most: no damage makes a request that is refused for its size alone.
const MOST: usize = 200_000;

/// Damages a case in one to eight places.
pub fn damage(case: &mut Case, others: &[Case], rng: &mut ChaCha8Rng) {
    for _ in 0..1 << rng.random_range(0..4) {
        let part = rng.random_range(0..case.len());
        let other = &others[rng.random_range(0..others.len())];
        let other = &other[rng.random_range(0..other.len())];
        damage_part(&mut case[part], other, rng);
        case[part].truncate(MOST);
    }
    for part in case {
        if part.starts_with(b"\x89PNG") && rng.random_bool(0.7) {
            sign(part);
        }
    }
}

fn damage_part(part: &mut Vec<u8>, other: &[u8], rng: &mut ChaCha8Rng) {
    let at = rng.random_range(0..=part.len());
    let length = rng.random_range(0..=(part.len() - at).min(64));
    match rng.random_range(0..9) {
        0 if at < part.len() => part[at] ^= 1 << rng.random_range(0..8),
        1 if at < part.len() => part[at] = rng.random(),
        2 => drop(part.drain(at..at + length)),
        3 => {
            let copy = part[at..at + length].to_vec();
            let to = rng.random_range(0..=part.len());
            part.splice(to..to, copy);
        }
        4 => {
            let word = WORDS[rng.random_range(0..WORDS.len())];
            part.splice(at..at, word.iter().copied());
        }
        5 => {
            let value = LENGTHS[rng.random_range(0..LENGTHS.len())];
            let value = [value.to_le_bytes(), value.to_be_bytes()][rng.random_range(0..2)];
            let width = [1, 2, 4][rng.random_range(0..3)];
            for (byte, value) in part[at..].iter_mut().zip(&value[..width]) {
                *byte = *value;
            }
        }
        6 => number(part, at, rng),
        7 => part.truncate(at),
        8 => {
            let from = rng.random_range(0..=other.len());
            let to = (from + rng.random_range(0..256)).min(other.len());
            part.splice(at..at, other[from..to].iter().copied());
        }
        _ => (),
    }
}

/// Another number in place of the next one.
fn number(part: &mut Vec<u8>, at: usize, rng: &mut ChaCha8Rng) {
    let Some(start) = part[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = at + start;
    let digits = part[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let end = start + digits.count();
    let numbers = [
        "0",
        "1",
        "2",
        "33",
        "-1",
        "1e39",
        "0.5",
        "4294967296",
        "18446744073709551615",
    ];
    let text = numbers[rng.random_range(0..numbers.len())];
    part.splice(start..end, text.bytes());
}

/// Gives each chunk of a PNG the checksum that its content has, so that damage gets past that check.
fn sign(png: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = png.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let end = (at + 8).saturating_add(length);
        if png.len() < end.saturating_add(4) {
            return;
        }
        let checksum = crc(&png[at + 4..end]);
        png[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
        at = end + 4;
    }
}
