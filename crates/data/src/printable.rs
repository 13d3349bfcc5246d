//! Names from elsewhere, in a form that only a reader acts on.

use std::fmt::Write;
use std::path::Path;

/// A path in a message, as [`printable_text`].
pub(crate) fn printable(path: &Path) -> String {
    let (text, _) = in_unicode(path.as_os_str().as_encoded_bytes());
    printable_text(&text)
}

/// Text in a message. What would act on a terminal instead of being read is escaped: control characters, and those that
/// turn or hide text.
pub(crate) fn printable_text(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || hides {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

/// A file's name as text, and whether it was text: bytes that are no UTF-8 become `\xff`, so that two such names stay
/// two.
pub(crate) fn in_unicode(name: &[u8]) -> (String, bool) {
    let mut text = String::with_capacity(name.len());
    let mut is_unicode = true;
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            is_unicode = false;
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    (text, is_unicode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_act_on_the_terminal() {
        let name = printable(Path::new("cats/\u{1b}[31mred\nerror: none\u{202e}.png"));
        assert!(!name.contains(char::is_control), "{name:?}");
        assert!(name.contains(r"\u{1b}[31mred\nerror"), "{name}");
        assert_eq!(printable(Path::new("Über/日本 1.png")), "Über/日本 1.png");
    }

    #[test]
    fn bytes_that_are_no_text_stay_apart() {
        assert_eq!(in_unicode(b"a\xffb"), (r"a\xffb".to_string(), false));
        assert_ne!(in_unicode(b"\xff"), in_unicode(b"\xfe"));
        assert_eq!(in_unicode("é".as_bytes()), ("é".to_string(), true));
    }
}
