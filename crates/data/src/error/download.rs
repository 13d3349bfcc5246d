//! Why a download did not succeed.

use crate::printable::printable_text;

/// Why a download did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The server refused the file for good.
    #[error(
        "{url} answers with HTTP status {status}: check the address, or download the file by hand, and give images with --data, \
         weights as model.pretrained",
        url = printable_text(url)
    )]
    HttpStatus {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },

    /// The transfer failed several times.
    #[error(
        "cannot download {url} ({reason}; gave up after {tries} tries without progress): try again \
         later, it goes on where it stopped, or download the file by hand and give images with --data, \
         weights as model.pretrained",
        url = printable_text(url), reason = printable_text(reason)
    )]
    Transfer {
        /// The address.
        url: String,
        /// What failed last.
        reason: String,
        /// Tries in turn that brought nothing beyond what had come before.
        tries: u32,
    },

    /// A downloaded file is not the expected one.
    #[error(
        "{url} has {kind} checksum {found}, expected {expected}; the file was removed: {advice}",
        url = printable_text(url)
    )]
    Checksum {
        /// The address.
        url: String,
        /// MD5 or SHA-256.
        kind: &'static str,
        /// The file's checksum, in hex.
        found: String,
        /// The expected checksum, in hex.
        expected: String,
        /// What to do.
        advice: String,
    },

    /// A server answered with something else than the file.
    #[error(
        "{url} answers with {found}, expected {expected}; it was not kept: check the address (a page to log in or about an \
         error may stand there), or download the file by hand, and give images with --data, weights as model.pretrained",
        url = printable_text(url)
    )]
    OtherContent {
        /// The address.
        url: String,
        /// What its first bytes say it is.
        found: &'static str,
        /// What the file's name says it is.
        expected: &'static str,
    },
}
