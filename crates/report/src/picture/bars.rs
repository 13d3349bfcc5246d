//! A strip with a bar for each block: how many tokens it leaves.

use std::fmt::Write;

use apt_inference::LayerAnswer;

use super::draw::text;

/// Height of the longest bar, in pixels.
const HEIGHT: u32 = 48;
/// Lines of text that the strip takes.
pub(super) const LINES: usize = 5;

/// Tokens after each of the model's blocks.
pub(super) fn left(layers: &[LayerAnswer], tokens: usize, blocks: usize) -> Vec<usize> {
    let after = |block: usize| {
        let acted = layers.iter().rfind(|layer| layer.layer <= block);
        acted.map_or(tokens, |layer| layer.tokens)
    };
    (0..blocks).map(after).collect()
}

/// Draws it with its left upper corner at `(x, y)`, `width` pixels wide.
pub(super) fn draw_bars(
    svg: &mut String,
    (x, y): (u32, u32),
    width: u32,
    left: &[usize],
    tokens: usize,
) {
    let title = format!("tokens that each block leaves, of {tokens}, CLS included");
    text(svg, (x, y + 16), "#333", &title);
    let base = y + 41 + HEIGHT;
    let room = width / left.len().max(1) as u32;
    // Numbers need room: of many blocks, every second or third has one.
    let every = (34 / room.max(1) + 1) as usize;
    let word = if room >= 64 { "block " } else { "" };
    for (block, &count) in left.iter().enumerate() {
        let at = x + block as u32 * room;
        let height = (f64::from(HEIGHT) * count as f64 / tokens.max(1) as f64)
            .round()
            .max(1.0) as u32;
        let bar = (room * 3 / 4).max(2);
        let _ = write!(
            svg,
            "<path d=\"M{at} {}h{bar}v{HEIGHT}h-{bar}z\" fill=\"#e4e7eb\"/><path d=\"M{at} {base}v-{height}h{bar}v{height}z\" fill=\"#0b62a4\"/>",
            base - HEIGHT
        );
        if block % every == 0 || block + 1 == left.len() && block % every * 2 > every {
            text(svg, (at, base - HEIGHT - 5), "#333", &count.to_string());
            text(svg, (at, base + 18), "#777", &format!("{word}{block}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_between_those_that_act_leave_what_came_to_them() {
        let layer = |layer, tokens| LayerAnswer {
            layer,
            tokens,
            parked: 0,
            restarted: false,
            flops_share: 1.0,
            kept: Vec::new(),
            token: Vec::new(),
        };
        let layers = [layer(1, 33), layer(4, 9)];
        assert_eq!(left(&layers, 65, 6), [65, 33, 33, 33, 9, 9]);
        assert_eq!(left(&[], 65, 2), [65, 65]);
    }
}
