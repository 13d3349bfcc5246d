//! A colour for each token of several patches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use apt_inference::LayerAnswer;

/// A colour of [`PALETTE`]. It is written as in an SVG: `#e6194b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Color([u8; 3]);

/// Colours that differ clearly, also as tints.
pub(crate) const PALETTE: [Color; 12] = [
    Color([0xe6, 0x19, 0x4b]),
    Color([0x43, 0x63, 0xd8]),
    Color([0xff, 0xe1, 0x19]),
    Color([0x3c, 0xb4, 0x4b]),
    Color([0xf0, 0x32, 0xe6]),
    Color([0x42, 0xd4, 0xf4]),
    Color([0xf5, 0x82, 0x31]),
    Color([0x91, 0x1e, 0xb4]),
    Color([0xbf, 0xef, 0x45]),
    Color([0x00, 0x80, 0x80]),
    Color([0xfa, 0xbe, 0xd4]),
    Color([0x9a, 0x63, 0x24]),
];
/// Colours further apart than this differ clearly.
const CLEAR: f64 = 150.0;
/// So much nearer may a colour be for each other group that has the one further apart.
const REUSE: f64 = 40.0;

/// The tokens of several patches after a block, and their colours.
pub(crate) type Colors = BTreeMap<usize, Color>;

impl Color {
    fn apart(self, other: Self) -> f64 {
        let differences = self.0.iter().zip(other.0);
        let squares = differences.map(|(&a, b)| (f64::from(a) - f64::from(b)).powi(2));
        squares.sum::<f64>().sqrt()
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

/// The colours after each of these blocks. A merged token has the colour of its largest part. Tokens that touch have different
/// colours, as far as there are enough.
///
/// The last block comes first: its tokens hand their colours down to their largest parts. Parts that touch belong to tokens
/// that touch, so that what is handed down differs, too.
pub(crate) fn colors(layers: &[&LayerAnswer], grid: [usize; 2]) -> Vec<Colors> {
    let mut all: Vec<Colors> = Vec::new();
    let mut later: Option<&LayerAnswer> = None;
    for layer in layers.iter().rev() {
        let sizes = groups(layer);
        let mut found = Colors::new();
        let mut by_size: Vec<(usize, usize)> = sizes.into_iter().collect();
        by_size.sort_by_key(|&(token, patches)| (std::cmp::Reverse(patches), token));
        if let Some((later, colors)) = later.zip(all.last()) {
            let mut given = BTreeSet::new();
            for &(token, _) in &by_size {
                let Some(into) = later.token[token] else {
                    continue;
                };
                if let Some(&color) = colors.get(&into)
                    && given.insert(into)
                {
                    found.insert(token, color);
                }
            }
        }
        let touching = touching(layer, grid);
        for (token, _) in by_size {
            if !found.contains_key(&token) {
                let beside = touching.get(&token).into_iter().flatten();
                let beside = beside.filter_map(|other| found.get(other).copied());
                let color = choose(&beside.collect::<Vec<_>>(), &found);
                found.insert(token, color);
            }
        }
        all.push(found);
        later = Some(layer);
    }
    all.reverse();
    all
}

/// Has a panel two tokens of one colour?
pub(crate) fn repeat(colors: &[Colors]) -> bool {
    let is_shared = |panel: &Colors, color: &Color| {
        let same = panel.values().filter(|other| *other == color);
        same.count() > 1
    };
    let mut panels = colors.iter();
    panels.any(|panel| panel.values().any(|color| is_shared(panel, color)))
}

/// One that differs from those `beside` it, and that few others of the panel have.
fn choose(beside: &[Color], panel: &Colors) -> Color {
    let score = |color: Color| {
        let apart = beside.iter().map(|&other| color.apart(other));
        let uses = panel.values().filter(|&&other| other == color).count();
        let score = apart.fold(CLEAR, f64::min) - REUSE * uses as f64;
        (!beside.contains(&color), score)
    };
    let better = |best: Color, color: Color| {
        if score(color) > score(best) {
            color
        } else {
            best
        }
    };
    PALETTE.into_iter().fold(PALETTE[0], better)
}

/// Tokens that more than one patch is part of, and how many.
pub(crate) fn groups(layer: &LayerAnswer) -> BTreeMap<usize, usize> {
    let mut patches: BTreeMap<usize, usize> = BTreeMap::new();
    for &token in layer.token.iter().flatten() {
        *patches.entry(token).or_default() += 1;
    }
    patches.retain(|_, patches| *patches > 1);
    patches
}

/// The tokens that have a patch beside one of each token's.
fn touching(layer: &LayerAnswer, [rows, columns]: [usize; 2]) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut touching: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut note = |a: Option<usize>, b: Option<usize>| {
        if let (Some(a), Some(b)) = (a, b)
            && a != b
        {
            touching.entry(a).or_default().insert(b);
            touching.entry(b).or_default().insert(a);
        }
    };
    let token = |row: usize, column: usize| layer.token[row * columns + column];
    for row in 0..rows {
        for column in 0..columns {
            if column + 1 < columns {
                note(token(row, column), token(row, column + 1));
            }
            if row + 1 < rows {
                note(token(row, column), token(row + 1, column));
            }
        }
    }
    touching
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(token: &[usize]) -> LayerAnswer {
        LayerAnswer {
            layer: 0,
            tokens: 0,
            parked: 0,
            restarted: false,
            flops_share: 1.0,
            kept: Vec::new(),
            token: token.iter().copied().map(Some).collect(),
        }
    }

    #[test]
    fn touching_tokens_differ_and_no_colour_repeats_while_there_are_enough() {
        // Pairs of patches in a row: ten tokens of two.
        let pairs: Vec<usize> = (0..20).map(|patch| patch / 2 * 2).collect();
        let found = colors(&[&layer(&pairs)], [4, 5]);
        assert_eq!(found[0].len(), 10);
        assert!(!repeat(&found));
        let many: Vec<usize> = (0..64).map(|patch| patch / 2 * 2).collect();
        let many = layer(&many);
        let found = colors(&[&many], [8, 8]);
        assert!(repeat(&found));
        for (token, others) in touching(&many, [8, 8]) {
            for other in others {
                let apart = found[0][&token].apart(found[0][&other]);
                assert!(apart > 100.0, "{token} {other}: {apart}");
            }
        }
    }

    #[test]
    fn a_merged_token_has_the_colour_of_its_largest_part() {
        let before = layer(&[0, 0, 0, 3, 3, 5, 6, 6]);
        let after = layer(&[3, 3, 3, 3, 3, 5, 6, 6]);
        let found = colors(&[&before, &after], [1, 8]);
        assert_eq!(found[1][&3], found[0][&0]);
        assert_ne!(found[0][&3], found[0][&0]);
        assert_eq!(found[1][&6], found[0][&6]);
        assert!(!found[0].contains_key(&5), "a patch of its own has none");
    }

    #[test]
    fn a_colour_is_written_as_in_an_svg() {
        assert_eq!(PALETTE[0].to_string(), "#e6194b");
    }
}
