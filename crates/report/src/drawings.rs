//! Images with their kept, merged and removed patches drawn over them as SVG. Each image stands in the page once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

use apt_inference::LayerAnswer;
use maud::{Markup, PreEscaped, html};

use crate::number::{Number, Style};
use crate::passes::{Passes, Seen};
use crate::picture::{Area, Colors, colors, shown};

/// The images of a page, and the drawings over them.
pub struct Drawings<'a> {
    passes: Option<&'a Passes>,
    /// Tells apart the images of several folders on one page.
    prefix: String,
    used: BTreeMap<usize, String>,
}

impl<'a> Drawings<'a> {
    /// Drawings of these passes' images.
    pub fn new(passes: Option<&'a Passes>, prefix: impl Into<String>) -> Self {
        Self {
            passes,
            prefix: prefix.into(),
            used: BTreeMap::new(),
        }
    }

    /// The image, and the image after some of the policy's blocks, `most` panels in all.
    pub fn strip(&mut self, seen: &Seen, most: usize) -> Markup {
        let Some(passes) = self.passes else {
            return html! {};
        };
        let layers = shown(&seen.layers, passes.tokens, most.max(3) - 1);
        let colors = colors(&layers, passes.grid);
        let [rows, columns] = passes.grid;
        let reference = match self.reference(passes, seen.index) {
            Ok(reference) => reference,
            Err(reason) => return html! { p.dim { "This image cannot be shown: " (reason) } },
        };
        let view = format!("0 0 {columns} {rows}");
        let panel = |after: Option<(&LayerAnswer, &Colors)>, what: String| {
            html! {
                svg viewBox=(view) role="img" aria-label=(what) {
                    use href=(reference) {}
                    @if let Some((layer, colors)) = after { (PreEscaped(overlay(layer, colors, passes.grid))) }
                    (PreEscaped(format!("<path d=\"M0 0h{columns}v{rows}H0z\" fill=\"none\" stroke=\"#888\" stroke-width=\".06\"/>")))
                }
            }
        };
        html! {
            div.strip {
                div { (panel(None, "the image".into())) "the image" }
                @for (layer, colors) in layers.iter().zip(&colors) {
                    div {
                        (panel(Some((layer, colors)), format!("after block {}", layer.layer)))
                        "after block " (layer.layer) ": "
                        (Number::computed(layer.tokens as f64, Style::Whole)) " of " (passes.tokens) " tokens, CLS included"
                    }
                }
            }
        }
    }

    /// The image's address within the page.
    fn reference(&mut self, passes: &Passes, index: usize) -> Result<String, String> {
        if let Entry::Vacant(free) = self.used.entry(index) {
            let picture = passes.picture(index);
            free.insert(picture.map_err(|error| error.to_string())?);
        }
        Ok(format!("#{}{index}", self.prefix))
    }

    /// The images that were used; they stand in the page once.
    pub fn images(&self) -> Markup {
        let [rows, columns] = self.passes.map_or([1, 1], |passes| passes.grid);
        html! {
            @if !self.used.is_empty() {
                svg width="0" height="0" style="position:absolute" aria-hidden="true" {
                    defs {
                        @for (index, picture) in &self.used {
                            image id={ (self.prefix) (index) } href=(picture) width=(columns) height=(rows) preserveAspectRatio="none" {}
                        }
                    }
                }
            }
        }
    }
}

/// The pattern over removed patches, once in a page.
pub fn patterns() -> Markup {
    html! {
        svg width="0" height="0" style="position:absolute" aria-hidden="true" {
            defs {
                pattern id="hatch" width=".5" height=".5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    path d="M.25 0V.5" stroke="#333" stroke-width=".17" {}
                    path d="M.25 0V.5" stroke="#fff" stroke-width=".07" {}
                }
            }
        }
    }
}

/// A key to the colours.
pub fn key() -> Markup {
    let patch = |inner: &str| {
        html! {
            svg viewBox="0 0 2 2" aria-hidden="true" { (PreEscaped(inner)) }
        }
    };
    let photo = "<path d=\"M0 0h2v2h-2z\" fill=\"#7aa37a\"/><path d=\"M0 1.3l.8-.6.6.5.6-.3v1.1H0z\" fill=\"#4f7a4f\"/>";
    let gone = format!("{photo}{GONE}d=\"M0 0h2v2h-2z\"/>{HATCH}d=\"M0 0h2v2h-2z\"/>");
    let merged = format!(
        "{photo}<path d=\"M0 0h2v2h-2z\" fill=\"#f032e6\" fill-opacity=\".4\" stroke=\"#fff\" stroke-width=\".4\"/>\
         <path d=\"M0 0h2v2h-2z\" fill=\"none\" stroke=\"#f032e6\" stroke-width=\".25\"/>"
    );
    html! {
        ul.key {
            li { (patch(photo)) "kept: a token of its own" }
            li { (patch(&merged)) "merged: patches inside one outline are of one token, which may have further pieces of its colour; tokens that touch differ in colour, others may share one" }
            li { (patch(&gone)) "removed: no later block sees it" }
        }
    }
}

const GONE: &str = "<path fill=\"#808080\" fill-opacity=\".9\" ";
const HATCH: &str = "<path fill=\"url(#hatch)\" ";

/// Merged and removed patches as paths, in units of a patch.
fn overlay(layer: &LayerAnswer, colors: &Colors, grid: [usize; 2]) -> String {
    let area = |holds: &dyn Fn(usize) -> bool, inset: f32| {
        let area = Area {
            grid,
            patch: 1,
            corner: (0, 0),
            holds,
        };
        (area.filled(), area.outlined(inset))
    };
    let mut svg = String::new();
    for (&token, color) in colors {
        let (filled, edge) = area(&|patch| layer.token[patch] == Some(token), 0.1);
        // Writing to a string does not fail.
        let _ = write!(
            svg,
            "<path d=\"{filled}\" fill=\"{color}\" fill-opacity=\".4\"/>\
             <path d=\"{edge}\" stroke=\"#fff\" stroke-width=\".2\" stroke-linecap=\"square\"/>\
             <path d=\"{edge}\" stroke=\"{color}\" stroke-width=\".12\" stroke-linecap=\"square\"/>"
        );
    }
    let (filled, edge) = area(&|patch| layer.token[patch].is_none(), 0.0);
    if !filled.is_empty() {
        let _ = write!(
            svg,
            "{GONE}d=\"{filled}\"/>{HATCH}d=\"{filled}\"/>\
             <path d=\"{edge}\" stroke=\"#fff\" stroke-width=\".14\" stroke-linecap=\"square\"/>\
             <path d=\"{edge}\" stroke=\"#222\" stroke-width=\".06\" stroke-linecap=\"square\"/>"
        );
    }
    svg
}
