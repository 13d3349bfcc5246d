//! A drawing as pixels.

use std::sync::Arc;

use epaint_default_fonts::UBUNTU_LIGHT;
use resvg::{tiny_skia, usvg};

/// The bitmap has this many pixels for each of the drawing's.
const SCALE: f32 = 2.0;

/// Renders a plot as PNG, 1800 pixels wide, with a font that is part of the program.
///
/// # Errors
///
/// What the renderer says.
pub fn plot_png(svg: &str) -> Result<Vec<u8>, String> {
    let mut options = usvg::Options::default();
    let fonts = options.fontdb_mut();
    let source = usvg::fontdb::Source::Binary(Arc::new(UBUNTU_LIGHT));
    let face = fonts.load_font_source(source).first().copied();
    let family = face.and_then(|face| Some(fonts.face(face)?.families.first()?.0.clone()));
    fonts.set_sans_serif_family(family.ok_or("the program's font is damaged")?);
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let [width, height] = [tree.size().width(), tree.size().height()].map(|x| (x * SCALE) as u32);
    let mut image = tiny_skia::Pixmap::new(width, height).ok_or("the picture has no size")?;
    let scale = tiny_skia::Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, scale, &mut image.as_mut());
    image.encode_png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_has_text_without_the_systems_fonts() {
        let svg = |text: &str| {
            format!(
                "<svg width=\"100\" height=\"40\" xmlns=\"http://www.w3.org/2000/svg\">\
                 <text x=\"5\" y=\"25\" font-family=\"sans-serif\" font-size=\"20\">{text}</text></svg>"
            )
        };
        let [with, without] = ["accuracy", ""].map(|text| plot_png(&svg(text)).unwrap());
        assert_eq!(&with[1..4], b"PNG");
        let [with, without] =
            [with, without].map(|png| tiny_skia::Pixmap::decode_png(&png).unwrap());
        assert_eq!((with.width(), with.height()), (200, 80));
        let inked =
            |image: &tiny_skia::Pixmap| image.pixels().iter().filter(|p| p.alpha() > 0).count();
        assert!(inked(&with) > 300 && inked(&without) == 0);
    }
}
