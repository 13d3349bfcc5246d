//! Numbers on the page: each carries its exact value and the file that it was read from.

use std::time::Duration;

use apt_rl_trainer::duration;
use maud::{Markup, Render, html};

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `91.3%`, of a share.
    Percent,
    /// `1.23 G`: a count with its prefix.
    Count,
    /// `5000`: a whole number.
    Whole,
    /// So many digits after the point.
    Digits(usize),
    /// `1.2 ms`, of images per second.
    TimePerImage,
    /// `3m20s`, of seconds.
    Duration,
    /// `1.2 GiB`, of bytes.
    Memory,
    /// At most four significant digits, as in `0.0004` or `4e-5`.
    Shortest,
}

impl Style {
    /// The number as text.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Percent => format!("{:.1}%", 100.0 * value),
            Self::Count => prefixed(value),
            Self::Whole => format!("{value:.0}"),
            Self::Digits(digits) => format!("{value:.digits$}"),
            Self::TimePerImage => {
                let digits = if value > 100.0 { 2 } else { 1 };
                format!("{:.digits$} ms", 1e3 / value)
            }
            Self::Duration => Duration::try_from_secs_f64(value).map_or("?".into(), duration),
            Self::Memory => format!("{:.1} GiB", value / f64::from(1 << 30)),
            Self::Shortest => shortest(value),
        }
    }
}

fn prefixed(value: f64) -> String {
    let (value, prefix) = match value {
        value if value >= 1e12 => (value / 1e12, " T"),
        value if value >= 1e9 => (value / 1e9, " G"),
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e3 => (value / 1e3, " k"),
        value => return format!("{value:.0}"),
    };
    format!("{value:.2}{prefix}")
}

/// At most four significant digits, without zeros at the end.
fn shortest(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    if !(0..=7).contains(&digits) {
        let text = format!("{value:.3e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", without_zeros(digits));
    }
    without_zeros(&format!("{value:.*}", digits as usize)).into()
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

/// A number on the page. Its element holds the exact value and, if it was read from a file, the file and the place in it:
/// `<data value="0.9130000000000001" data-from="summary.json#/pruned_accuracy">91.3%</data>`.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    /// The value.
    pub value: f64,
    /// The file, `#`, and the place in it as a JSON pointer; `None` for a number that the report computed.
    pub from: Option<String>,
    /// How it is written.
    pub style: Style,
}

impl Number {
    /// One that the report computed.
    pub fn computed(value: f64, style: Style) -> Self {
        Self {
            value,
            from: None,
            style,
        }
    }
}

impl Render for Number {
    fn render(&self) -> Markup {
        let title = self
            .from
            .as_deref()
            .map(|from| format!("{}, from {from}", self.value));
        html! {
            data value=(self.value) data-from=[&self.from] title=[title] { (self.style.text(self.value)) }
        }
    }
}

/// A number, or a dash where it is not known.
pub fn or_dash(number: Option<Number>) -> Markup {
    match number {
        Some(number) => number.render(),
        None => html! { span.dim { "–" } },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_says_its_value_and_its_file() {
        let number = Number {
            value: 0.9130000000000001,
            from: Some("summary.json#/pruned_accuracy".into()),
            style: Style::Percent,
        };
        let text = number.render().into_string();
        assert!(text.contains("value=\"0.9130000000000001\""), "{text}");
        assert!(
            text.contains("data-from=\"summary.json#/pruned_accuracy\""),
            "{text}"
        );
        assert!(text.ends_with(">91.3%</data>"), "{text}");
    }

    #[test]
    fn numbers_are_short_and_right() {
        for (style, value, text) in [
            (Style::Count, 1_234_567.0, "1.23 M"),
            (Style::Count, 12.0, "12"),
            (Style::TimePerImage, 100.0, "10.0 ms"),
            (Style::TimePerImage, 4000.0, "0.25 ms"),
            (Style::Duration, 200.4, "3m20s"),
            (Style::Shortest, 0.0004, "0.0004"),
            (Style::Shortest, 0.000_000_12, "1.2e-7"),
            (Style::Shortest, 2.308_480_024, "2.308"),
            (Style::Shortest, 1234.567, "1235"),
            (Style::Shortest, -0.5, "-0.5"),
        ] {
            assert_eq!(style.text(value), text);
        }
    }
}
