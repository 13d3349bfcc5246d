//! Colours of policies and of curves.

use plotters::style::RGBColor;

/// Okabe and Ito's colours, which the colour-blind tell apart, less the yellow that white swallows.
pub const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
    RGBColor(136, 34, 85),
];
