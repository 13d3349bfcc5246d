//! Downloads that survive cut connections, and prove that they are complete.

use crate::checksum::{Checksum, Known, beside};
use crate::content::mismatch;
use crate::printable::{printable, printable_text};
use crate::progress::{Meter, Unit};
use crate::{DataError, DownloadError, Progress};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;
use ureq::http::{HeaderMap, header};
use ureq::{Agent, Timeout};

/// Downloads `url` to `dest`, unless `dest` already has the right checksum.
///
/// The bytes go to `dest.part` first. A cut connection or a busy server is tried again, and a part
/// file, also of an earlier run, is continued where the server allows it. Several processes may
/// ask for the same file: `dest.lock` makes them take turns. The proxy variables of the
/// environment are honoured. A server that stays silent for 20 seconds counts as a cut connection.
///
/// # Errors
///
/// If the server refuses the file, if several tries in turn bring nothing beyond what had come before, if what comes is
/// not what the name of `dest` says (a web page instead of `.safetensors`) or the checksum is wrong (the file is then
/// removed), or if a file cannot be written.
pub fn download(
    url: &str,
    dest: &Path,
    checksum: &Checksum,
    progress: Progress,
) -> Result<(), DataError> {
    Downloader::default().fetch(url, dest, checksum, progress)
}

/// How to download.
pub(crate) struct Downloader {
    agent: Agent,
    /// Tries in turn that bring nothing beyond what had come before, until it gives up.
    tries: u32,
    /// Pause before the second try; each further one waits twice as long.
    pause: Duration,
}

impl Default for Downloader {
    fn default() -> Self {
        Self::new(Self::agent(PATIENCE), 5, Duration::from_secs(1))
    }
}

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

type AgentConfig = ureq::config::ConfigBuilder<ureq::typestate::AgentScope>;

/// Why one try did not bring the whole file.
enum Failure {
    /// Another try may help.
    Again {
        reason: String,
        /// How much of the file was there when new bytes had come; 0 where none had.
        reached: u64,
    },
    Final(DataError),
}

impl Failure {
    fn again(reason: impl ToString) -> Self {
        Self::Again {
            reason: reason.to_string(),
            reached: 0,
        }
    }

    fn of_request(error: ureq::Error) -> Self {
        Self::again(in_words(&error))
    }
}

impl Downloader {
    pub fn new(agent: AgentConfig, tries: u32, pause: Duration) -> Self {
        Self {
            agent: agent.build().into(),
            tries,
            pause,
        }
    }

    pub fn agent(patience: Duration) -> AgentConfig {
        let patience = Some(patience);
        Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("aptvit/", env!("CARGO_PKG_VERSION")))
            // Ranges and checksums are about the file as it is.
            .accept_encoding("identity")
            .timeout_resolve(patience)
            .timeout_connect(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience)
    }

    pub fn fetch(
        &self,
        url: &str,
        dest: &Path,
        checksum: &Checksum,
        progress: Progress,
    ) -> Result<(), DataError> {
        if let Some(folder) = dest.parent() {
            std::fs::create_dir_all(folder).map_err(DataError::io("create", folder))?;
        }
        let lock_path = beside(dest, ".lock");
        let lock = File::create(&lock_path).map_err(DataError::io("create", &lock_path))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            let file = printable(dest);
            tracing::warn!("another process downloads {file}: waiting for it");
        }
        lock.lock().map_err(DataError::io("lock", &lock_path))?;

        let unfit = |file: &Path| mismatch(file, dest).map_err(DataError::io("read", file));
        if dest.exists() && unfit(dest)?.is_some() {
            // Kept by an older version, with its checksum.
            remove(dest)?;
            if *checksum == Checksum::FirstUse {
                remove(&beside(dest, ".sha256"))?;
            }
        }
        let known = Known::read(checksum, dest)?;
        if dest.exists() && known.accepts(&known.of(dest)?)? {
            return Ok(());
        }
        let part = beside(dest, ".part");
        self.fill(url, &part, &known, progress)?;
        if let Some((found, expected)) = unfit(&part)? {
            remove(&part)?;
            remove(&beside(&part, ".etag"))?;
            return Err(DownloadError::OtherContent {
                url: url.into(),
                found,
                expected,
            }
            .into());
        }
        let found = known.of(&part)?;
        if !known.accepts(&found)? {
            std::fs::remove_file(&part).map_err(DataError::io("remove", &part))?;
            return Err(DownloadError::Checksum {
                url: url.into(),
                kind: known.kind,
                found,
                expected: known.hex.unwrap_or_default(),
                advice: match known.record {
                    None => "try again".into(),
                    Some(path) => format!(
                        "try again, or, if its publisher has changed it, delete {}",
                        printable(&path)
                    ),
                },
            }
            .into());
        }
        remove(&beside(&part, ".etag"))?;
        std::fs::rename(&part, dest).map_err(DataError::io("rename to", dest))
    }

    /// Tries until the part file is complete.
    fn fill(
        &self,
        url: &str,
        part: &Path,
        known: &Known,
        progress: Progress,
    ) -> Result<(), DataError> {
        let mut idle_tries = 0;
        // A server that begins anew each time sends bytes each time, and yet gets nowhere.
        let mut farthest = 0;
        loop {
            match self.attempt(url, part, known, progress) {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { reason, reached }) => {
                    if reached > farthest {
                        farthest = reached;
                        idle_tries = 0;
                    } else {
                        idle_tries += 1;
                    }
                    if idle_tries >= self.tries {
                        return Err(DownloadError::Transfer {
                            url: url.into(),
                            reason,
                            tries: self.tries,
                        }
                        .into());
                    }
                    tracing::warn!("{}: {reason}; trying again", printable_text(url));
                    std::thread::sleep(self.pause * (1 << idle_tries.saturating_sub(1)));
                }
            }
        }
    }

    /// One request, from where the part file ends.
    fn attempt(
        &self,
        url: &str,
        part: &Path,
        known: &Known,
        progress: Progress,
    ) -> Result<(), Failure> {
        let write_error = |reason| Failure::Final(DataError::io("write", part)(reason));
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(part)
            .map_err(write_error)?;
        let mut have = file.metadata().map_err(write_error)?.len();

        let etag_path = beside(part, ".etag");
        let mut request = self.agent.get(url);
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
            // A file that has changed since is sent from its start.
            if let Ok(etag) = std::fs::read_to_string(&etag_path) {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let mut response = request.call().map_err(Failure::of_request)?;
        let restart = |reason: &str| {
            file.set_len(0).map_err(write_error)?;
            Err(Failure::again(reason))
        };
        match response.status().as_u16() {
            206 if range_start(response.headers()) != Some(have) => {
                return restart("the server sent another range than asked for");
            }
            206 => {}
            // The server does not know ranges: it sends the file from its start.
            200 => {
                file.set_len(0).map_err(write_error)?;
                have = 0;
                match strong_etag(response.headers()) {
                    Some(etag) => std::fs::write(&etag_path, etag).map_err(write_error)?,
                    None => remove(&etag_path).map_err(Failure::Final)?,
                }
            }
            // Nothing is left to send, either because all is here or because the file changed.
            416 if known
                .is_all(part, response.headers())
                .map_err(Failure::Final)? =>
            {
                return Ok(());
            }
            416 => return restart("the server's file is shorter than what was received before"),
            status @ (408 | 429 | 500 | 502 | 503 | 504) => {
                return Err(Failure::again(format!("HTTP status {status}")));
            }
            status => {
                return Err(Failure::Final(
                    DownloadError::HttpStatus {
                        url: url.into(),
                        status,
                    }
                    .into(),
                ));
            }
        }

        let total = response.body().content_length().map(|rest| have + rest);
        let meter = Meter::new(
            progress,
            format!("downloading {}", printable_text(url)),
            Unit::Bytes,
            total,
        );
        meter.add(have);
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        let mut new_bytes = 0;
        let again = |reason: String, new_bytes: u64| {
            let reached = if new_bytes > 0 { have + new_bytes } else { 0 };
            Failure::Again { reason, reached }
        };
        loop {
            match body.read(&mut buffer) {
                Ok(0) if total.is_some_and(|total| have + new_bytes < total) => {
                    return Err(again("the connection was cut".into(), new_bytes));
                }
                Ok(0) => return file.sync_all().map_err(write_error),
                Ok(count) => {
                    file.write_all(&buffer[..count]).map_err(write_error)?;
                    meter.add(count as u64);
                    new_bytes += count as u64;
                }
                Err(error) => {
                    let reason = match error.get_ref().and_then(|error| error.downcast_ref()) {
                        Some(error) => in_words(error),
                        None => error.to_string(),
                    };
                    return Err(again(reason, new_bytes));
                }
            }
        }
    }
}

/// What went wrong with a request, for people.
fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            "no connection to the server in time".into()
        }
        ureq::Error::Timeout(_) => "the server stays silent".into(),
        error => error.to_string(),
    }
}

/// The first byte of a `Content-Range: bytes 100-199/200`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (start, _) = range.trim().strip_prefix("bytes")?.trim().split_once('-')?;
    start.parse().ok()
}

/// A validator that names the file's very bytes.
fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    let etag = headers.get(header::ETAG)?.to_str().ok()?;
    etag.starts_with('"').then_some(etag)
}

fn remove(path: &Path) -> Result<(), DataError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
