//! Commands that people copy.

use std::path::Path;

use apt_vit_model::printable;

/// A path as a shell takes it: in quotes where it holds anything that a shell reads.
pub fn quoted(path: &Path) -> String {
    let text = printable(path);
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_reads_is_in_quotes() {
        assert_eq!(quoted(Path::new("runs/my-run_2.0")), "runs/my-run_2.0");
        assert_eq!(quoted(Path::new("my run")), "'my run'");
        assert_eq!(quoted(Path::new("it's $HOME")), r"'it'\''s $HOME'");
    }
}
