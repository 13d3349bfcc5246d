//! The picture: panels with the image and its kept, merged and removed patches, captions and a legend.

use std::collections::BTreeMap;
use std::fmt::Write;

use apt_inference::{Answer, LayerAnswer};
use apt_rl_trainer::sweep::plot_png;
use image::{Rgb, RgbImage, imageops};

use super::bars::{self, draw_bars, left};
use super::layers::shown;
use super::legend::{Meaning, draw_legend, meanings};
use super::outline::Area;
use super::sheet::Sheet;
use crate::ReportError;
use crate::number::Style;

/// Panels, at most: the image and some of the blocks.
const PANELS: usize = 8;
/// Height of letters, in pixels.
const LETTERS: u32 = 17;

/// A panel: the image, or the image after a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Panel<'a> {
    Image,
    After(&'a LayerAnswer),
}

impl<'a> Panel<'a> {
    /// The image, and the image after each of `layers`.
    pub fn all(layers: &[&'a LayerAnswer]) -> Vec<Self> {
        let after = layers.iter().map(|layer| Self::After(layer));
        std::iter::once(Self::Image).chain(after).collect()
    }

    /// The two lines above it.
    fn caption(self, answer: &Answer) -> [String; 2] {
        match self {
            Self::Image => {
                let class = answer.classes.first();
                class.map_or_else(Default::default, |class| {
                    let probability = Style::Percent.text(f64::from(class.probability));
                    [class.class.clone(), format!("{probability} probable")]
                })
            }
            Self::After(layer) => {
                let (left, share) = (layer.tokens, Style::Percent.text(layer.flops_share));
                [
                    format!("after block {}", layer.layer),
                    format!("{left} of {} tokens, FLOPs {share}", answer.tokens),
                ]
            }
        }
    }
}

/// The image with its class, the image after some of the model's `blocks`, and how many tokens each block leaves.
pub(crate) fn draw(
    image: &RgbImage,
    grid: [usize; 2],
    blocks: usize,
    answer: &Answer,
) -> Result<RgbImage, ReportError> {
    let layers = shown(&answer.layers, answer.tokens, PANELS - 1);
    let panels = Panel::all(&layers);
    let left = left(&answer.layers, answer.tokens, blocks);
    let left = (!layers.is_empty()).then_some(left.as_slice());
    draw_panels(image, grid, answer, &panels, &meanings(&layers), left)
}

/// Panels side by side, a legend, and bars if `left` gives the tokens that each block leaves.
pub(super) fn draw_panels(
    image: &RgbImage,
    grid: [usize; 2],
    answer: &Answer,
    panels: &[Panel<'_>],
    meanings: &[Meaning],
    left: Option<&[usize]>,
) -> Result<RgbImage, ReportError> {
    let lines = meanings.len() + left.map_or(0, |_| bars::LINES);
    let sheet = Sheet::new(grid, panels.len(), lines);
    let [height, width] = sheet.size();
    let mut picture = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    let [panel_height, panel_width] = sheet.panel();
    let filter = imageops::FilterType::CatmullRom;
    let panel = imageops::resize(image, panel_width, panel_height, filter);
    for index in 0..panels.len() {
        let (x, y) = sheet.corner(index);
        imageops::replace(&mut picture, &panel, x.into(), y.into());
    }

    // A drawing is rendered with two pixels for each of its units.
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {width} {height}\">",
        width / 2,
        height / 2
    );
    for (index, panel) in panels.iter().enumerate() {
        caption(&mut svg, &sheet, index, &panel.caption(answer));
        if let Panel::After(layer) = panel {
            merged(&mut svg, &sheet, index, layer);
            veil(&mut svg, &sheet, index, layer);
        }
    }
    draw_legend(&mut svg, &sheet, meanings);
    if let Some(left) = left {
        let (x, y) = sheet.below(meanings.len());
        let room = width - 2 * x;
        draw_bars(&mut svg, (x, y - 8), room, left, answer.tokens);
    }
    svg.push_str("</svg>");
    lay_over(&mut picture, &svg)?;
    Ok(picture)
}

/// The drawing, over the picture.
fn lay_over(picture: &mut RgbImage, svg: &str) -> Result<(), ReportError> {
    let png = plot_png(svg).map_err(ReportError::drawing)?;
    let drawing = image::load_from_memory(&png)
        .map_err(ReportError::drawing)?
        .into_rgba8();
    for (pixel, over) in picture.pixels_mut().zip(drawing.pixels()) {
        let [.., alpha] = over.0.map(u32::from);
        for (value, &over) in pixel.0.iter_mut().zip(&over.0) {
            let sum = u32::from(*value) * (255 - alpha) + u32::from(over) * alpha;
            *value = ((sum + 127) / 255) as u8;
        }
    }
    Ok(())
}

fn area<'a>(sheet: &Sheet, panel: usize, holds: &'a dyn Fn(usize) -> bool) -> Area<'a> {
    Area {
        grid: sheet.grid,
        patch: sheet.patch,
        corner: sheet.corner(panel),
        holds,
    }
}

/// Removed patches: nearly opaque grey with white lines, and an edge of two colours that shows on bright and dark images.
fn veil(svg: &mut String, sheet: &Sheet, panel: usize, layer: &LayerAnswer) {
    let gone = |patch: usize| layer.token[patch].is_none();
    let area = area(sheet, panel, &gone);
    let (filled, hatched, edge) = (area.filled(), area.hatched(), area.outlined(0.0));
    let _ = write!(
        svg,
        "<path d=\"{filled}\" fill=\"#8a8a8a\" fill-opacity=\"0.8\"/>\
         <path d=\"{hatched}\" stroke=\"#fff\" stroke-opacity=\"0.5\" stroke-width=\"1.2\"/>\
         <path d=\"{edge}\" stroke=\"#fff\" stroke-width=\"3.5\" stroke-linecap=\"square\"/>\
         <path d=\"{edge}\" stroke=\"#222\" stroke-width=\"1.5\" stroke-linecap=\"square\"/>"
    );
}

/// Patches that became one token: one tint and one outline.
fn merged(svg: &mut String, sheet: &Sheet, panel: usize, layer: &LayerAnswer) {
    for token in groups(layer) {
        let holds = |patch: usize| layer.token[patch] == Some(token);
        let area = area(sheet, panel, &holds);
        let (filled, edge) = (area.filled(), area.outlined(1.25));
        let hue = hue(token / sheet.grid[1], token % sheet.grid[1]);
        let _ = write!(
            svg,
            "<path d=\"{filled}\" fill=\"hsl({hue},85%,55%)\" fill-opacity=\"0.4\"/>\
             <path d=\"{edge}\" stroke=\"hsl({hue},90%,45%)\" stroke-width=\"2.5\" stroke-linecap=\"square\"/>"
        );
    }
}

/// The colour of the token at this row and column, in degrees: at least 35 from those of its neighbours and theirs.
pub(crate) fn hue(row: usize, column: usize) -> f64 {
    (137.5 * column as f64 + 50.0 * row as f64) % 360.0
}

/// Tokens that more than one patch is part of.
pub(crate) fn groups(layer: &LayerAnswer) -> Vec<usize> {
    let mut patches: BTreeMap<usize, usize> = BTreeMap::new();
    for &token in layer.token.iter().flatten() {
        *patches.entry(token).or_default() += 1;
    }
    let groups = patches.into_iter().filter(|&(_, patches)| patches > 1);
    groups.map(|(token, _)| token).collect()
}

fn caption(svg: &mut String, sheet: &Sheet, panel: usize, lines: &[String; 2]) {
    let (x, y) = sheet.corner(panel);
    let most = (sheet.cell_width() * 2 / LETTERS) as usize;
    for (line, (up, color)) in lines.iter().zip([(29, "#111"), (8, "#555")]) {
        text(svg, (x, y - up), color, &shortened(line, most));
    }
}

/// At most so many letters.
fn shortened(line: &str, most: usize) -> String {
    if line.chars().count() <= most {
        return line.to_string();
    }
    let start: String = line.chars().take(most - 1).collect();
    format!("{}…", start.trim_end())
}

/// A line of text. The program's font is a light one: a thin stroke makes it darker.
pub(super) fn text(svg: &mut String, (x, y): (u32, u32), color: &str, line: &str) {
    let line = line.replace('&', "&amp;").replace('<', "&lt;");
    let _ = write!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" font-family=\"sans-serif\" font-size=\"{LETTERS}\" \
         fill=\"{color}\" stroke=\"{color}\" stroke-width=\"0.35\">{line}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_inference::ClassProbability;

    /// Four by four patches after one block.
    fn answer(token: &dyn Fn(usize) -> Option<usize>) -> Answer {
        let token: Vec<Option<usize>> = (0..16).map(token).collect();
        let kept = token.iter().enumerate();
        let kept: Vec<bool> = kept.map(|(at, token)| *token == Some(at)).collect();
        Answer {
            classes: vec![ClassProbability {
                class: "<cat> & dog".to_string(),
                index: 0,
                probability: 0.9,
            }],
            features: Vec::new(),
            tokens: 17,
            layers: vec![LayerAnswer {
                layer: 3,
                tokens: 1 + kept.iter().filter(|kept| **kept).count(),
                flops_share: 0.5,
                kept,
                token,
            }],
            flops: 1,
            flops_share: 0.5,
        }
    }

    fn drawn(grey: u8, answer: &Answer) -> (Sheet, RgbImage) {
        let image = RgbImage::from_pixel(16, 16, Rgb([grey; 3]));
        let picture = draw(&image, [4, 4], 6, answer).unwrap();
        let layers: Vec<&LayerAnswer> = answer.layers.iter().collect();
        let sheet = Sheet::new([4, 4], 2, meanings(&layers).len() + bars::LINES);
        assert_eq!([picture.height(), picture.width()], sheet.size());
        (sheet, picture)
    }

    /// The mean of a patch in the last panel.
    fn patch(sheet: &Sheet, picture: &RgbImage, index: u32) -> [f64; 3] {
        let (x, y) = sheet.corner(1);
        let (x, y) = (x + index % 4 * sheet.patch, y + index / 4 * sheet.patch);
        let part = imageops::crop_imm(picture, x, y, sheet.patch, sheet.patch).to_image();
        let mut sum = [0.0; 3];
        for pixel in part.pixels() {
            (0..3).for_each(|c| sum[c] += f64::from(pixel.0[c]));
        }
        sum.map(|sum| sum / f64::from(sheet.patch * sheet.patch))
    }

    #[test]
    fn gone_patches_are_told_apart_on_dark_and_bright_and_grey_images() {
        let answer = answer(&|patch| (patch % 2 == 0).then_some(patch));
        for grey in [0, 20, 138, 235, 255] {
            let (sheet, picture) = drawn(grey, &answer);
            let gone = patch(&sheet, &picture, 1)[0];
            assert!((100.0..180.0).contains(&gone), "{grey}: {gone}");
            let contrast = |index: u32| {
                let (x, y) = sheet.corner(1);
                let x = x + index * sheet.patch + 8;
                let inner = imageops::crop_imm(&picture, x, y + 8, sheet.patch - 16, 40);
                let inner = inner.to_image();
                let values = || inner.pixels().map(|pixel| pixel.0[0]);
                values().max().unwrap() - values().min().unwrap()
            };
            assert_eq!(contrast(0), 0);
            assert!(contrast(1) > 20, "{grey}: {}", contrast(1));
        }
    }

    #[test]
    fn patches_of_one_token_share_a_tint_and_others_have_another() {
        let answer = answer(&|patch| match patch {
            0 | 1 | 15 => Some(0),
            8 | 9 => Some(8),
            _ => Some(patch),
        });
        let (sheet, picture) = drawn(128, &answer);
        let tint = |index| patch(&sheet, &picture, index);
        let apart =
            |a: [f64; 3], b: [f64; 3]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum() };
        assert!(apart(tint(0), tint(1)) < 15.0);
        assert!(apart(tint(0), tint(8)) > 40.0);
        assert!(apart(tint(0), tint(5)) > 20.0);
        assert!(apart(tint(5), [128.0; 3]) < 1.0);
    }

    #[test]
    fn tokens_near_each_other_have_other_colours() {
        for (row, column) in (0..3).flat_map(|row| (0..3).map(move |column| (row, column))) {
            for (down, right) in [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1)] {
                let apart = |a: f64, b: f64| {
                    let apart = (a - b).abs();
                    apart.min(360.0 - apart)
                };
                let ahead = apart(hue(row, column), hue(row + down, column + right));
                let back = apart(hue(row + down, column), hue(row, column + right));
                assert!(
                    ahead >= 35.0 && back >= 35.0,
                    "{down} {right}: {ahead} {back}"
                );
            }
        }
    }

    #[test]
    fn captions_are_above_both_panels_and_names_are_text() {
        let (sheet, picture) = drawn(128, &answer(&Some));
        for panel in 0..2 {
            let (x, y) = sheet.corner(panel);
            let above = imageops::crop_imm(&picture, x, y - 46, sheet.cell_width(), 46);
            let above = above.to_image();
            let inked = above.pixels().filter(|pixel| pixel.0[0] < 200).count();
            assert!(inked > 120, "{panel}: {inked}");
        }
        assert_eq!(shortened("a very long name", 8), "a very…");
    }
}
