//! The legend: a sample patch and words for each of the colours that the picture has.

use std::fmt::Write;

use apt_inference::LayerAnswer;

use super::colors::{Colors, PALETTE, repeat};
use super::draw::{letters, text};
use super::sheet::Sheet;

/// Side of a sample, in pixels.
const SAMPLE: u32 = 18;
/// Between a sample and its words.
const GAP: u32 = 9;

/// What can become of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Kept,
    Merged,
    Removed,
}

impl Meaning {
    fn sample(self, (x, y): (u32, u32)) -> String {
        let square = format!("M{x} {y}h{SAMPLE}v{SAMPLE}h-{SAMPLE}z");
        match self {
            Self::Kept => {
                format!("<path d=\"{square}\" fill=\"#fff\" stroke=\"#999\" stroke-width=\"1\"/>")
            }
            Self::Merged => format!(
                "<path d=\"{square}\" fill=\"{0}\" fill-opacity=\"0.4\" stroke=\"#111\" stroke-width=\"5\"/>\
                 <path d=\"{square}\" fill=\"none\" stroke=\"#fff\" stroke-width=\"4\"/>\
                 <path d=\"{square}\" fill=\"none\" stroke=\"{0}\" stroke-width=\"2.4\"/>",
                PALETTE[4]
            ),
            Self::Removed => {
                let (right, half) = (x + SAMPLE, SAMPLE / 2);
                let lines = format!(
                    "M{x} {}L{} {y}M{x} {}L{right} {y}M{} {}L{right} {}",
                    y + half,
                    x + half,
                    y + SAMPLE,
                    x + half,
                    y + SAMPLE,
                    y + half
                );
                format!(
                    "<path d=\"{square}\" fill=\"#808080\"/>\
                     <path d=\"{lines}\" stroke=\"#333\" stroke-width=\"2.4\"/>\
                     <path d=\"{lines}\" stroke=\"#fff\" stroke-width=\"1.2\"/>\
                     <path d=\"{square}\" fill=\"none\" stroke=\"#222\" stroke-width=\"1.5\"/>"
                )
            }
        }
    }
}

/// Lines below the panels.
pub(super) struct Legend {
    /// A sample and words, or words alone.
    lines: Vec<(Option<Meaning>, String)>,
}

impl Legend {
    /// What these layers with their colours contain, and a note, in lines that `width` pixels have room for.
    pub fn new(
        layers: &[&LayerAnswer],
        colors: &[Colors],
        note: Option<String>,
        width: u32,
    ) -> Self {
        let room = letters(width.saturating_sub(SAMPLE + 3 * GAP));
        let mut lines = Vec::new();
        let meant = explained(layers, colors);
        for (meaning, words) in meant.into_iter().chain(note.map(|note| (None, note))) {
            let first = lines.len();
            lines.extend(wrapped(&words, room).map(|line| (None, line)));
            lines[first].0 = meaning;
        }
        Self { lines }
    }

    /// How many there are.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Draws them below the panels.
    pub fn draw(&self, svg: &mut String, sheet: &Sheet) {
        let has_samples = self.lines.iter().any(|(meaning, _)| meaning.is_some());
        let beside = if has_samples { SAMPLE + GAP } else { 0 };
        for (line, (meaning, words)) in self.lines.iter().enumerate() {
            let (x, y) = sheet.below(line);
            if let Some(meaning) = meaning {
                // Writing to a string does not fail.
                let _ = write!(svg, "{}", meaning.sample((x, y - SAMPLE + 4)));
            }
            text(svg, (x + beside, y), "#333", words);
        }
    }
}

/// A line for each kind of patch in these layers. It says where no patch is removed, or none merged.
fn explained(layers: &[&LayerAnswer], colors: &[Colors]) -> Vec<(Option<Meaning>, String)> {
    let removed = layers.iter().any(|layer| layer.token.contains(&None));
    let merged = colors.iter().any(|colors| !colors.is_empty());
    if !removed && !merged {
        return Vec::new();
    }
    let mut lines = vec![(Meaning::Kept, "kept: a token of its own".to_string())];
    if merged {
        let what = if repeat(colors) {
            format!(
                "merged: patches inside one outline are of one token, which may have further pieces of its colour elsewhere. Tokens that touch differ in colour; others share the {} colours",
                PALETTE.len()
            )
        } else {
            "merged: patches of one colour are one token".to_string()
        };
        let nothing = if removed { "" } else { ". No patch is removed" };
        lines.push((
            Meaning::Merged,
            format!("{what}. A token keeps the colour of its largest part{nothing}."),
        ));
    }
    if removed {
        // A device that decides by itself does not say what merged.
        let nothing = if merged {
            ""
        } else {
            "; none is marked as merged"
        };
        lines.push((
            Meaning::Removed,
            format!("removed: gone for later blocks{nothing}"),
        ));
    }
    let lines = lines.into_iter();
    lines
        .map(|(meaning, words)| (Some(meaning), words))
        .collect()
}

/// In lines of at most so many letters, broken between words.
fn wrapped(words: &str, room: usize) -> impl Iterator<Item = String> {
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > room {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.into_iter()
}

#[cfg(test)]
mod tests {
    use super::super::colors::colors;
    use super::*;

    #[test]
    fn the_legend_explains_what_is_there_and_nothing_else() {
        let of = |token: &dyn Fn(usize) -> Option<usize>| {
            let layer = LayerAnswer {
                layer: 3,
                tokens: 9,
                parked: 0,
                restarted: false,
                flops_share: 0.5,
                kept: Vec::new(),
                token: (0..64).map(token).collect(),
            };
            let layers = [&layer];
            let lines = explained(&layers, &colors(&layers, [8, 8]));
            let (meanings, words): (Vec<Option<Meaning>>, Vec<String>) = lines.into_iter().unzip();
            let meanings: Vec<Meaning> = meanings.into_iter().flatten().collect();
            (meanings, words.join(" "))
        };
        assert!(of(&Some).0.is_empty());
        let (meanings, words) = of(&|patch| (patch > 3).then_some(patch));
        assert_eq!(meanings, [Meaning::Kept, Meaning::Removed]);
        assert!(words.contains("none is marked as merged"), "{words}");
        let (meanings, words) = of(&|patch| Some(patch.max(2)));
        assert_eq!(meanings, [Meaning::Kept, Meaning::Merged]);
        assert!(
            words.contains("one colour are one token") && words.contains("No patch is removed")
        );
        let (_, words) = of(&|patch| Some(patch / 2 * 2));
        assert!(words.contains("inside one outline"), "{words}");
        assert!(explained(&[], &[]).is_empty());
    }

    #[test]
    fn long_words_of_the_legend_take_several_lines() {
        let lines: Vec<String> = wrapped("one two three four", 9).collect();
        assert_eq!(lines, ["one two", "three", "four"]);
    }
}
