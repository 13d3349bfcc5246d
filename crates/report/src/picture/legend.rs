//! The legend: a sample patch and words for each of the colours that the picture has.

use std::fmt::Write;

use apt_inference::LayerAnswer;

use super::draw::{groups, text};
use super::sheet::Sheet;

/// Side of a sample, in pixels.
const SAMPLE: u32 = 18;

/// What can become of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Kept,
    Merged,
    Removed,
}

impl Meaning {
    fn words(self) -> &'static str {
        match self {
            Self::Kept => "kept: a token of its own",
            Self::Merged => "merged: one colour, one token",
            Self::Removed => "removed: gone for later blocks",
        }
    }

    fn sample(self, (x, y): (u32, u32)) -> String {
        let square = format!("M{x} {y}h{SAMPLE}v{SAMPLE}h-{SAMPLE}z");
        match self {
            Self::Kept => {
                format!("<path d=\"{square}\" fill=\"#fff\" stroke=\"#999\" stroke-width=\"1\"/>")
            }
            Self::Merged => format!(
                "<path d=\"{square}\" fill=\"hsl(275,85%,55%)\" fill-opacity=\"0.4\" stroke=\"hsl(275,90%,45%)\" stroke-width=\"2.5\"/>"
            ),
            Self::Removed => {
                let (right, half) = (x + SAMPLE, SAMPLE / 2);
                format!(
                    "<path d=\"{square}\" fill=\"#8a8a8a\"/>\
                     <path d=\"M{x} {}L{} {y}M{x} {}L{right} {y}M{} {}L{right} {}\" stroke=\"#fff\" stroke-opacity=\"0.6\" stroke-width=\"1.2\"/>\
                     <path d=\"{square}\" fill=\"none\" stroke=\"#222\" stroke-width=\"1.5\"/>",
                    y + half,
                    x + half,
                    y + SAMPLE,
                    x + half,
                    y + SAMPLE,
                    y + half
                )
            }
        }
    }
}

/// What the legend explains: what these layers contain.
pub(super) fn meanings(layers: &[&LayerAnswer]) -> Vec<Meaning> {
    let any = |holds: &dyn Fn(&LayerAnswer) -> bool| layers.iter().any(|layer| holds(layer));
    let removed = any(&|layer| layer.token.contains(&None));
    let merged = any(&|layer| !groups(layer).is_empty());
    let known = [
        (removed || merged, Meaning::Kept),
        (merged, Meaning::Merged),
        (removed, Meaning::Removed),
    ];
    let there = known.into_iter().filter(|(there, _)| *there);
    there.map(|(_, meaning)| meaning).collect()
}

/// Draws them below the panels, a line each.
pub(super) fn draw_legend(svg: &mut String, sheet: &Sheet, meanings: &[Meaning]) {
    for (line, meaning) in meanings.iter().enumerate() {
        let (x, y) = sheet.below(line);
        // Writing to a string does not fail.
        let _ = write!(svg, "{}", meaning.sample((x, y - SAMPLE + 4)));
        text(svg, (x + SAMPLE + 9, y), "#333", meaning.words());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legend_explains_what_is_there_and_nothing_else() {
        let of = |token: &dyn Fn(usize) -> Option<usize>| {
            let layer = LayerAnswer {
                layer: 3,
                tokens: 9,
                flops_share: 0.5,
                kept: Vec::new(),
                token: (0..16).map(token).collect(),
            };
            meanings(&[&layer])
        };
        assert_eq!(of(&Some), []);
        let removed = of(&|patch| (patch > 3).then_some(patch));
        assert_eq!(removed, [Meaning::Kept, Meaning::Removed]);
        assert_eq!(
            of(&|patch| Some(patch.max(2))),
            [Meaning::Kept, Meaning::Merged]
        );
        assert_eq!(meanings(&[]), []);
    }
}
