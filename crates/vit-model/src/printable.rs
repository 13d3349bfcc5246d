//! Names from elsewhere, in a form that only a reader acts on.

use std::path::Path;

/// A path in a message, as [`printable_text`].
pub fn printable(path: &Path) -> String {
    printable_text(&path.to_string_lossy())
}

/// Text in a message. What would act on a terminal instead of being read is escaped: control characters, and those that
/// turn or hide text.
pub fn printable_text(text: &str) -> String {
    let mut printable = String::new();
    for c in text.chars() {
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || hidden {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_act_on_the_terminal() {
        let name = printable(Path::new(
            "weights/\u{1b}[2J\nerror: all is well\u{202e}.npz",
        ));
        assert!(!name.contains(char::is_control), "{name:?}");
        assert!(name.contains(r"\u{1b}[2J\nerror"), "{name}");
        assert!(name.contains(r"\u{202e}.npz"), "{name}");
        assert_eq!(printable(Path::new("Über/日本 1.npz")), "Über/日本 1.npz");
    }
}
