//! The picture: panels with the image and its kept, merged and removed patches, captions and a legend.

use std::fmt::Write;

use apt_inference::{Answer, LayerAnswer};
use apt_rl_trainer::sweep::plot_png;
use image::{Rgb, RgbImage, imageops};

use super::bars::{self, draw_bars, left};
use super::colors::{Colors, colors};
use super::layers::{shown, which};
use super::legend::Legend;
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
    After(&'a LayerAnswer, &'a Colors),
}

impl<'a> Panel<'a> {
    /// The image, and the image after each of `layers`, with these colours.
    pub fn all(layers: &[&'a LayerAnswer], colors: &'a [Colors]) -> Vec<Self> {
        let after = layers.iter().zip(colors);
        let after = after.map(|(layer, colors)| Self::After(layer, colors));
        std::iter::once(Self::Image).chain(after).collect()
    }

    /// The lines above it.
    fn caption(self, answer: &Answer) -> [String; 3] {
        match self {
            Self::Image => {
                let Some(class) = answer.classes.first() else {
                    return ["the image".into(), String::new(), String::new()];
                };
                let model = if answer.layers.is_empty() {
                    "model"
                } else {
                    "pruned model"
                };
                let probability = Style::Percent.text(f64::from(class.probability));
                [
                    class.class.clone(),
                    format!("the {model}'s answer,"),
                    format!("{probability} probable"),
                ]
            }
            Self::After(layer, _) => {
                let share = Style::Percent.text(layer.flops_share);
                let left = if layer.restarted {
                    "uncertain: it starts over, whole".into()
                } else if layer.is_answer() {
                    "answered here; its way ends".into()
                } else if layer.parked > 0 {
                    let (left, all) = (layer.tokens, answer.tokens);
                    format!("{left} of {all} tokens, {} parked", layer.parked)
                } else {
                    format!("{} of {} tokens, CLS included", layer.tokens, answer.tokens)
                };
                let cost = if layer.restarted {
                    format!("{share} of dense, both passes")
                } else {
                    format!("{share} of the dense model's FLOPs")
                };
                [format!("after block {}", layer.layer), left, cost]
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
    let colors = colors(&layers, grid);
    let panels = Panel::all(&layers, &colors);
    let left = left(&answer.layers, answer.tokens, blocks);
    let left = (!layers.is_empty()).then_some(left.as_slice());
    let which = which(&answer.layers, &layers, answer.tokens, blocks);
    let legend = Legend::new(&layers, &colors, which, Sheet::width(grid, panels.len()));
    draw_panels(image, grid, answer, &panels, &legend, left)
}

/// Panels side by side, a legend, and bars if `left` gives the tokens that each block leaves.
pub(super) fn draw_panels(
    image: &RgbImage,
    grid: [usize; 2],
    answer: &Answer,
    panels: &[Panel<'_>],
    legend: &Legend,
    left: Option<&[usize]>,
) -> Result<RgbImage, ReportError> {
    let lines = legend.lines() + left.map_or(0, |_| bars::LINES);
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
        frame(&mut svg, &sheet, index);
        if let Panel::After(layer, colors) = panel {
            merged(&mut svg, &sheet, index, layer, colors);
            veil(&mut svg, &sheet, index, layer);
        }
    }
    legend.draw(&mut svg, &sheet);
    if let Some(left) = left {
        let (x, y) = sheet.below(legend.lines());
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

/// A thin line around a panel: a pale image has an end, too.
fn frame(svg: &mut String, sheet: &Sheet, panel: usize) {
    let edge = area(sheet, panel, &|_| true).outlined(0.0);
    let _ = write!(svg, "<path d=\"{edge}\" stroke=\"#999\"/>");
}

/// Removed patches: nearly opaque grey with lines of two colours, and an edge of two colours. Both show on bright and dark images.
fn veil(svg: &mut String, sheet: &Sheet, panel: usize, layer: &LayerAnswer) {
    let gone = |patch: usize| layer.token[patch].is_none();
    let area = area(sheet, panel, &gone);
    let (filled, hatched, edge) = (area.filled(), area.hatched(), area.outlined(0.0));
    let _ = write!(
        svg,
        "<path d=\"{filled}\" fill=\"#808080\" fill-opacity=\"0.9\"/>\
         <path d=\"{hatched}\" stroke=\"#333\" stroke-width=\"2.4\"/>\
         <path d=\"{hatched}\" stroke=\"#fff\" stroke-width=\"1.2\"/>\
         <path d=\"{edge}\" stroke=\"#fff\" stroke-width=\"3.5\" stroke-linecap=\"square\"/>\
         <path d=\"{edge}\" stroke=\"#222\" stroke-width=\"1.5\" stroke-linecap=\"square\"/>"
    );
}

/// Patches that became one token: one tint, and one outline with a light and a dark line.
fn merged(svg: &mut String, sheet: &Sheet, panel: usize, layer: &LayerAnswer, colors: &Colors) {
    for (&token, color) in colors {
        let holds = |patch: usize| layer.token[patch] == Some(token);
        let area = area(sheet, panel, &holds);
        let (filled, edge, border) = (area.filled(), area.outlined(2.2), area.outlined(0.5));
        let _ = write!(
            svg,
            "<path d=\"{filled}\" fill=\"{color}\" fill-opacity=\"0.4\"/>\
             <path d=\"{edge}\" stroke=\"#fff\" stroke-width=\"3.6\" stroke-linecap=\"square\"/>\
             <path d=\"{edge}\" stroke=\"{color}\" stroke-width=\"2.4\" stroke-linecap=\"square\"/>\
             <path d=\"{border}\" stroke=\"#111\" stroke-linecap=\"square\"/>"
        );
    }
}

fn caption(svg: &mut String, sheet: &Sheet, panel: usize, lines: &[String; 3]) {
    let (x, y) = sheet.corner(panel);
    let most = letters(sheet.cell_width());
    for (line, (up, color)) in lines.iter().zip([(50, "#111"), (29, "#555"), (8, "#555")]) {
        text(svg, (x, y - up), color, &shortened(line, most));
    }
}

/// Letters that so many pixels have room for.
pub(super) fn letters(pixels: u32) -> usize {
    (pixels * 2 / LETTERS) as usize
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
                parked: 0,
                restarted: false,
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
        let which = which(&answer.layers, &layers, answer.tokens, 6);
        let colors = colors(&layers, [4, 4]);
        let legend = Legend::new(&layers, &colors, which, Sheet::width([4, 4], 2));
        let sheet = Sheet::new([4, 4], 2, legend.lines() + bars::LINES);
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
    fn captions_are_above_both_panels_and_names_are_text() {
        let (sheet, picture) = drawn(128, &answer(&Some));
        for panel in 0..2 {
            let (x, y) = sheet.corner(panel);
            let above = imageops::crop_imm(&picture, x, y - 66, sheet.cell_width(), 66);
            let above = above.to_image();
            let inked = above.pixels().filter(|pixel| pixel.0[0] < 200).count();
            assert!(inked > 120, "{panel}: {inked}");
        }
        assert_eq!(shortened("a very long name", 8), "a very…");
    }
}
