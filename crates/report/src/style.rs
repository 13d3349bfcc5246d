//! The page's style: bright, dark, on a phone, and printed.

use std::fmt::Write;

use apt_rl_trainer::sweep::COLORS;

const STYLE: &str = include_str!("style.css");

/// Colours of the drawings, and the variables that replace them.
const OF_DRAWINGS: [(&str, &str); 7] = [
    ("#FFFFFF", "--paper"),
    ("#000000", "--ink"),
    ("#E8E8E8", "--line"),
    ("#5A5A5A", "--dim"),
    ("#3C3C3C", "--dim"),
    ("#CDCDCD", "--wide"),
    ("#AAAAAA", "--dim"),
];

/// The style sheet.
pub fn style() -> String {
    let mut style = STYLE.to_string();
    let mut replace = |color: &str, variable: &str| {
        for property in ["fill", "stroke"] {
            // Writing to a string does not fail.
            let _ = writeln!(
                style,
                ".chart [{property}=\"{color}\"]{{{property}:var({variable})}}"
            );
        }
    };
    for (color, variable) in OF_DRAWINGS {
        replace(color, variable);
    }
    for (index, color) in COLORS.iter().enumerate() {
        let color = format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
        replace(&color, &format!("--c{index}"));
    }
    style
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::{Chart, Series};

    #[test]
    fn every_colour_of_a_chart_follows_the_page() {
        let points = vec![(0.0, 1.0), (2.0, 0.5)];
        let series = (0..8).map(|index| Series::marked(index.to_string(), points.clone()));
        let chart = Chart::over_steps("loss", series.collect()).unwrap();
        let text = chart.figure().into_string();
        let style = style();
        for property in ["fill", "stroke"] {
            let start = format!("{property}=\"#");
            for rest in text.split(&start).skip(1) {
                let color = format!("[{property}=\"#{}\"]", &rest[..6]);
                assert!(style.contains(&color), "{color}");
            }
        }
    }

    #[test]
    fn the_style_asks_nothing_of_the_network() {
        let style = style();
        assert!(!style.contains("url(") && !style.contains("@import"));
    }
}
